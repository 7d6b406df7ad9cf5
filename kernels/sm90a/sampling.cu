// ../sampling.cu for sm_90a, where it takes part in programmatic dependent launch.
#include "../sampling.cu"
