//! The operations on shapes, strides, numbers of experts and capacities that nobody chose, against the f64 reference:
//! many on the CPU, few and small ones on the virtual GPU, which interprets every instruction.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;

use crate::common::{Reach, executors, trial};
use crate::gemm::DTYPES;
use crate::{
    attention, gemm, layer_norm, lm_head, moe_combine, moe_dispatch, moe_gemm, sampling, topk_gating,
};

/// A property of one operation in one type.
type Property = fn(&dyn Operations, DType, Reach) -> Result<(), Failed>;

pub fn trials() -> Vec<Trial> {
    let properties: [(&str, &[DType], Property); 9] = [
        ("attention", &DTYPES, attention::property),
        ("gemm", &DTYPES, gemm::property),
        ("layer_norm", &DTYPES, layer_norm::property),
        ("lm_head", &DTYPES, lm_head::property),
        ("moe_combine", &DTYPES, moe_combine::property),
        ("moe_dispatch", &[DType::I32], moe_dispatch::property),
        ("moe_gemm", &DTYPES, moe_gemm::property),
        ("sampling", &[DType::F32], sampling::property),
        ("topk_gating", &[DType::F32], topk_gating::property),
    ];
    let mut trials = Vec::new();
    for (operation, dtypes, property) in properties {
        for &dtype in dtypes {
            for &executor in executors() {
                let is_cpu = executor.name == "cpu";
                let reach =
                    if is_cpu { Reach { cases: 300, most: 40 } } else { Reach { cases: 8, most: 20 } };
                let run = move |ops: &dyn Operations| property(ops, dtype, reach);
                trials.push(trial(operation, dtype, "any_shape", executor, run));
            }
        }
    }
    trials
}
