// ../attention.cu for sm_90a, where it takes part in programmatic dependent launch: f32, block tables, and head sizes that
// attention.cu beside this has no kernel for.
#include "../attention.cu"
