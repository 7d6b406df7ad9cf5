//! Text that is no PTX, or none that this GPU knows, is refused with its place and the offending word.

use crate::HEAD;
use virtual_gpu::{Description, Gpu};

/// Loads a kernel with this body in line 8 and following; returns the error.
fn error(body: &str) -> virtual_gpu::LoadError {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out)\n{{\n.reg .b32 %r<9>; .reg .b64 %x<9>; .reg .f32 %f<9>; .reg .pred \
         %p<9>; .reg .b16 %h<9>;\n\n{body}\nret;\n}}\n"
    );
    match Gpu::new(Description::h200()).load_module(&text) {
        Err(error) => error,
        Ok(_) => panic!("`{body}` is accepted"),
    }
}

#[test]
fn unknown_instructions_are_named_with_their_line() {
    for body in [
        "frobnicate.u32 %r1, %r2;",
        "add.f32x2 %x1, %x2, %x3;",
        "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%x1, {%f1, %f2}];",
        "wmma.frob.a.sync.aligned.row.m16n16k16.f16 {%r1}, [%x1];",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {%f1, %f2, %f3, %f4}, %x1, %x2, %r1, 0, 1, 1, 1, 0, 0;",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2}, %r3, 0;",
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r1], [%x1, {%r1, %r2, %r3}], \
         [%r4], {%h1};",
        "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%x1], [%r1], 16, %h1;",
        "tcgen05.alloc.sync.aligned.b32 [%r1], 32;",
        "multimem.red.global.add.u32 [%x1], %r1;",
        "vadd.u32.u32.u32 %r1, %r2, %r3;",
    ] {
        let error = error(body);
        let opcode = body.split_whitespace().next().expect("an opcode");
        assert_eq!(error.position.line, 8, "{error}");
        assert_eq!(error.position.column, 1, "{error}");
        assert!(error.message.contains(opcode), "{body}: {error}");
    }
}

#[test]
fn unknown_modifiers_are_named() {
    for (body, word) in [
        ("add.frob.u32 %r1, %r2, %r3;", ".frob"),
        ("ld.global.L1::sometimes.u32 %r1, [%x1];", ".L1::sometimes"),
        ("bar.sync.often 0;", ".often"),
        ("shfl.sync.bfly.b64 %r1, %r2, 1, 31, -1;", ".b64"),
    ] {
        let error = error(body);
        assert!(error.position.line == 8 && error.message.contains(word), "{body}: {error}");
    }
}

#[test]
fn wrong_operands_are_told() {
    for (body, part) in [
        ("add.u32 %r1, %r2;", "operands"),
        ("add.u32 %r1, %r2, %r99;", "`%r99`"),
        ("add.u64 %r1, %x2, %x3;", "`%r1` has 32 bits, expected 64"),
        ("add.u32 5, %r2, %r3;", "destination"),
        ("selp.u32 %r1, %r2, %r3, %r4;", "`%r4` is no predicate"),
        ("add.u32 %r1, %p1, %r3;", "`%p1`"),
        ("ld.global.u32 %r1, %x1;", "brackets"),
        ("ld.global.u64 %r1, [%x1];", "narrower"),
        ("ld.global.v2.u32 %r1, [%x1];", "vector"),
        ("ld.global.u32 %p1, [%x1];", "predicate"),
        ("bra NOWHERE;", "`NOWHERE`"),
        ("call.uni missing;", "`missing`"),
        ("call %x1, P;", "`P` is neither"),
        ("call %x1;", "without a prototype"),
        ("P: .callprototype _ (); call %p1, P;", "predicate"),
        ("T: .calltargets missing; call %x1, T;", "`missing`"),
        ("call (%r1), %x1, P, P;", "call"),
        ("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1}, [%x1];", "registers, expected 8"),
        ("wmma.load.a.sync.aligned.m16n16k16.global.f16 {%r1}, [%x1];", ".row or .col"),
        ("wmma.load.a.sync.aligned.row.m16n16k8.global.f16 {%r1}, [%x1];", "wmma.load"),
        ("wmma.load.b.sync.aligned.row.m8n8k32.global.s4 {%r1}, [%x1];", "wmma.load"),
        (
            "wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 {%f1}, {%r1}, {%r2}, {%f2};",
            "registers, expected 8",
        ),
        ("wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.u8.s32 {%r1}, {%r2}, {%r3}, {%r4};", "wmma.mma"),
        ("wmma.mma.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32 {%r1}, {%r2}, {%r3}, {%r4};", "wmma.mma"),
        ("wmma.mma.xor.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32 {%r1}, {%r2}, {%r3}, {%r4};", "wmma.mma"),
        ("wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%x1], {%f1};", "registers, expected 8"),
        ("wmma.store.d.sync.aligned.row.m16n16k16.global.bf16 [%x1], {%f1};", "wmma.store"),
        ("atom.global.exch.b128 %x1, [%x2], %x3;", "expected 128"),
        ("atom.global.add.b128 %x1, [%x2], %x3;", "atom.global.add.b128"),
        ("mov.b128 {%x1, %x2}, %x3;", "expected 128"),
        ("ld.global.b128 %x1, [%x2];", "expected 128"),
        ("brx.idx %r1, TABLE;", "`TABLE`"),
        ("lop3.b32 %r1, %r2, %r3, %r4, %r5;", "constant"),
        ("cp.async.ca.shared.global [%r1], [%x1], 5;", "4, 8 or 16"),
        ("cp.async.wait_group %r1;", "constant"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2};",
            "registers, expected",
        ),
        ("setmaxnreg.inc.sync.aligned.u32 %r1;", "constant"),
        ("@%r1 add.u32 %r1, %r1, 1;", "`%r1` is no predicate"),
        ("vote.sync.some.pred %p1, %p2, -1;", "mode"),
        ("setp.maybe.u32 %p1, %r1, %r2;", "operator"),
        ("bar.red.add.u32 %r1, 0, %p1;", "operation"),
    ] {
        let error = error(body);
        assert!(error.position.line == 8 && error.message.contains(part), "{body}: {error}");
    }
}

#[test]
fn broken_modules_are_refused_where_they_break() {
    let gpu = Gpu::new(Description::h200());
    for (text, line, part) in [
        (".version 9.0\n.frob\n", 2, ".frob"),
        (".version 9.0\n.address_size 32\n", 2, "64"),
        (".version 9.0\n.target sm_90a\n.visible .entry k(\n", 4, "a type"),
        ("\n\n.global .u32 x = ;\n", 3, "`;`"),
        (".global .u32 x[2] = {1, 2, 3};\n", 1, "too many"),
        (".global .u32 x = y;\n", 1, "`y`"),
        (".func f();\n.global .u64 x = f;\n", 2, "`f`"),
        (".global .align 3 .u32 x;\n", 1, "power of two"),
        (".global .b8 x[99999999999999];\n", 1, "too large"),
        ("/* never ends\n", 1, "comment"),
        (".file 1 \"never ends\n", 1, "string"),
        (".entry k()\n.frobs 3\n{\nret;\n}\n", 1, ".frobs"),
        (".entry k()\n{\n.reg .b99 %r;\n}\n", 3, ".b99"),
        (".entry k()\n{\n.shared .b8 big[99999999];\nret;\n}\n", 1, "big"),
        ("0x\n", 1, "0x"),
        ("\u{1F600}\n", 1, "unexpected"),
    ] {
        let Err(error) = gpu.load_module(text) else { panic!("{text} is accepted") };
        let near = error.position.line.abs_diff(line) <= 1;
        assert!(near && error.message.contains(part), "{text}: {error}");
    }
}
