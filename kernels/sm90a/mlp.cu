// ../mlp.cu for sm_90a, where it takes part in programmatic dependent launch: f32, rows that the copy engine cannot reach, and
// numerics that do not depend on the batch.
#include "../mlp.cu"
