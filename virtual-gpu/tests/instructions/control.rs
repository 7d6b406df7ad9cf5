//! Branches, tables of branches, calls, parameters, constants, local arrays, barriers, moves of parts.

use crate::program::{Program, check};

fn any(random: &mut crate::harness::Random, _: usize, _: usize) -> u32 {
    random.next() as u32
}

fn small(random: &mut crate::harness::Random, _: usize, _: usize) -> u32 {
    random.below(4) as u32
}

fn map(rows: &[Vec<u32>], f: impl Fn(&[u32]) -> Vec<u32>) -> Vec<Vec<u32>> {
    rows.iter().map(|r| f(r)).collect()
}

pub fn programs() -> Vec<Program> {
    let mut all = Vec::new();
    let body = "mov.u32 %d0, 0;\nand.b32 %r2, %a0, 15;\nLOOP:\nsetp.eq.u32 %p0, %r2, 0;\n@%p0 bra DONE;\n\
                add.u32 %d0, %d0, %r2;\nsub.u32 %r2, %r2, 1;\nbra.uni LOOP;\nDONE:";
    all.push(Program::new("loop", [2, 64], [1, 1], any, body, |rows| {
        map(rows, |a| vec![(0..=a[0] & 15).sum()])
    }));
    let body = "T: .branchtargets A, B, C, D;\nbrx.idx %a0, T;\nA:\nmov.u32 %d0, 10;\nbra E;\nB:\nmov.u32 %d0, 11;\n\
                bra E;\nC:\nmov.u32 %d0, 12;\nbra E;\nD:\nmov.u32 %d0, 13;\nE:\n@!%p0 bra F;\nF:";
    let body = format!("setp.eq.u32 %p0, 0, 0;\n{body}");
    all.push(Program::new("brx.idx", [1, 64], [1, 1], small, &body, |rows| map(rows, |a| vec![10 + a[0]])));
    // Threads that leave early; what they owe was stored before.
    let body = "add.u32 %d0, %a0, 1;\nst.global.b32 [%o], %d0;\nsetp.lt.u32 %p0, %l, 5;\n@%p0 exit;\n\
                nanosleep.u32 20;\npmevent 1;\npmevent.mask 3;\nadd.u32 %d0, %a0, 2;";
    all.push(Program::new("exit", [1, 64], [1, 1], any, body, |rows| {
        rows.iter().enumerate().map(|(t, r)| vec![r[0].wrapping_add(if t < 5 { 1 } else { 2 })]).collect()
    }));
    let mut call = Program::new(
        "call",
        [1, 64],
        [2, 2],
        small,
        "{\n.param .b32 p0;\n.param .align 8 .b8 p1[16];\n.param .b32 ret;\nst.param::func.b32 [p0], %a0;\nst.param.b32 \
         [p1+4], %a1;\nst.param.b32 [p1], 7;\nst.param.b64 [p1+8], 1;\ncall.uni (ret), sum, (p0, p1);\nld.param.b32 \
         %d0, [ret];\n}\n{\n.param .b32 p0;\n.param .b32 ret;\nst.param.b32 [p0], %a0;\ncall (ret), factorial, \
         (p0);\nld.param.b32 %d1, [ret];\n}\ncall.uni nothing;",
        |rows| map(rows, |a| vec![100 * a[0] + 10 * a[1] + 7, (1..=a[0]).product()]),
    );
    call.head = ".func nothing()\n.noreturn\n.abi_preserve 16\n.abi_preserve_control 2\n{\nret;\n}\n\
         .func (.param .b32 ret) sum(.param .b32 x, .param .align 8 .b8 y[16])\n{\n.reg .b32 %r<9>;\nld.param.b32 \
         %r1, [x];\nld.param.b32 %r2, [y+4];\nld.param.b32 %r3, [y];\nmad.lo.u32 %r2, %r2, 10, %r3;\nmad.lo.u32 %r1, \
         %r1, 100, %r2;\nst.param.b32 [ret], %r1;\nret.uni;\n}\n\
         .func (.param .b32 ret) factorial(.param .b32 x)\n{\n.reg .b32 %r<9>;\n.reg .pred %p;\nld.param.b32 %r1, \
         [x];\nsetp.eq.u32 %p, %r1, 0;\nmov.u32 %r2, 1;\n@%p bra END;\nsub.u32 %r3, %r1, 1;\n{\n.param .b32 p0;\n\
         .param .b32 back;\nst.param.b32 [p0], %r3;\ncall.uni (back), factorial, (p0);\nld.param.b32 %r4, [back];\n}\n\
         mul.lo.u32 %r2, %r4, %r1;\nEND:\nst.param.b32 [ret], %r2;\nret;\n}\n"
        .into();
    all.push(call);
    // The stack grows, and what a function has in its frame lies behind; the second array lies where the first one was.
    let body = "stacksave.u64 %x0;\nmul.wide.u32 %x1, %a0, 4;\nadd.u64 %x1, %x1, 4;\nalloca.u64 %x2, %x1, 16;\n\
                st.local.u32 [%x2], 5;\nadd.u64 %x3, %x2, %x1;\nst.local.u32 [%x3+-4], %a1;\nld.local.u32 %d0, [%x3+-4];\n\
                and.b64 %x4, %x2, 15;\ncvt.u32.u64 %d1, %x4;\nstackrestore.u64 %x0;\nalloca.u64 %x5, 8;\n\
                st.local.u32 [%x5], %a1;\nld.local.u32 %d2, [%x5];";
    all.push(Program::new("stack", [1, 64], [2, 3], small, body, |rows| map(rows, |a| vec![a[1], 0, a[1]])));
    // As inline assembly in the headers of 16-bit types has it.
    let body = "{.reg.b32 x,y;\n mov.b32 x, 0X10U;\nadd.u32 y, x, %a0;\n mov.b32 %d0, y;}";
    all.push(Program::new("directives without a blank", [1, 32], [1, 1], small, body, |rows| {
        map(rows, |a| vec![a[0] + 16])
    }));
    // Addresses of functions: from a register, a table, and among targets that are named.
    let mut indirect = Program::new(
        "indirect call",
        [1, 64],
        [2, 3],
        small,
        "P: .callprototype (.param .b32 _) _ (.param .b32 _, .param .align 8 .b8 _[16]) .noreturn;\n\
         T: .calltargets twice, thrice;\nN: .callprototype _ ();\n\
         mov.u64 %x0, first;\nmov.u64 %x1, second;\nsetp.lt.u32 %p0, %a0, 2;\nselp.b64 %x2, %x0, %x1, %p0;\n\
         {\n.param .b32 p0;\n.param .align 8 .b8 p1[16];\n.param .b32 ret;\nst.param.b32 [p0], %a1;\n\
         st.param.b32 [p1+12], %a0;\ncall (ret), %x2, (p0, p1), P;\nld.param.b32 %d0, [ret];\n}\n\
         mul.wide.u32 %x3, %a0, 8;\nmov.u64 %x4, functions;\nadd.u64 %x3, %x3, %x4;\nld.global.u64 %x3, [%x3];\n\
         mov.u32 %d1, 77;\nsetp.ne.u32 %p1, %a1, 0;\n\
         {\n.param .b32 p0;\n.param .b32 ret;\nst.param.b32 [p0], %a1;\nst.param.b32 [ret], 0;\n\
         @%p1 call (ret), %x3, (p0), T;\nld.param.b32 %d1, [ret];\n}\n\
         mov.u64 %x5, nothing;\ncall %x5, N;\nmov.u32 %d2, 5;",
        |rows| {
            map(rows, |a| {
                let first = if a[0] < 2 { a[1] + 10 * a[0] } else { a[1] * a[0] };
                let second = if a[1] == 0 { 0 } else { a[1] * if a[0] % 2 == 0 { 2 } else { 3 } };
                vec![first, second, 5]
            })
        },
    );
    indirect.head = ".func nothing()\n{\nret;\n}\n\
         .func (.param .b32 ret) first(.param .b32 x, .param .align 8 .b8 y[16])\n{\n.reg .b32 %r<9>;\nld.param.b32 \
         %r1, [x];\nld.param.b32 %r2, [y+12];\nmad.lo.u32 %r1, %r2, 10, %r1;\nst.param.b32 [ret], %r1;\nret;\n}\n\
         .func (.param .b32 ret) second(.param .b32 x, .param .align 8 .b8 y[16])\n{\n.reg .b32 %r<9>;\nld.param.b32 \
         %r1, [x];\nld.param.b32 %r2, [y+12];\nmul.lo.u32 %r1, %r2, %r1;\nst.param.b32 [ret], %r1;\nret;\n}\n\
         .func (.param .b32 ret) twice(.param .b32 x)\n{\n.reg .b32 %r<9>;\nld.param.b32 %r1, [x];\nshl.b32 %r1, %r1, \
         1;\nst.param.b32 [ret], %r1;\nret;\n}\n\
         .func (.param .b32 ret) thrice(.param .b32 x)\n{\n.reg .b32 %r<9>;\nld.param.b32 %r1, [x];\nmul.lo.u32 %r1, \
         %r1, 3;\nst.param.b32 [ret], %r1;\nret;\n}\n\
         .global .align 8 .u64 functions[4] = {twice, thrice, twice, thrice};\n"
        .into();
    all.push(indirect);
    let mut tables = Program::new(
        "tables",
        [1, 64],
        [1, 4],
        small,
        "mul.wide.u32 %x0, %a0, 4;\nmov.u64 %x1, table;\nadd.u64 %x1, %x1, %x0;\nld.const.u32 %d0, [%x1];\nmov.u64 \
         %x2, words;\nadd.u64 %x2, %x2, %x0;\nld.global.u32 %d1, [%x2+4];\nld.global.u64 %x3, [pointer];\nld.u32 %d2, \
         [%x3];\n.local .align 4 .b8 array[64];\nmov.u64 %x4, array;\nadd.u64 %x5, %x4, %x0;\nst.local.u32 [%x4], \
         1;\nst.local.u32 [%x4+4], 2;\nst.local.u32 [%x4+8], 3;\nst.local.u32 [%x4+12], 4;\nld.local.u32 %d3, [%x5];",
        |rows| map(rows, |a| vec![[3, 5, 7, 11][a[0] as usize], 20 + a[0], 5, a[0] + 1]),
    );
    tables.head = ".const .align 4 .u32 table[4] = {3, 5, 7, 11};\n.global .align 4 .u32 words[8] = {19, 20, 21, 22, \
                   23};\n.global .align 8 .u64 pointer = generic(table)+4;\n.visible .global .f32 unused = 0f3F800000;\n"
        .into();
    all.push(tables);
    all.extend(barriers());
    all.extend(moves());
    all
}

fn barriers() -> Vec<Program> {
    // Each thread gives its number to the next one in the CTA.
    let exchange = |sync: &str| {
        format!(
            ".shared .align 4 .b8 cells[1024];\nmov.u32 %r2, cells;\nmad.lo.u32 %r3, %l, 4, %r2;\nst.shared.u32 [%r3], \
             %a0;\n{sync}\nadd.u32 %r4, %l, 1;\nrem.u32 %r4, %r4, 128;\nmad.lo.u32 %r3, %r4, 4, %r2;\nld.shared.u32 \
             %d0, [%r3];"
        )
    };
    let neighbours = |rows: &[Vec<u32>]| -> Vec<Vec<u32>> {
        (0..rows.len()).map(|t| rows[t / 128 * 128 + (t + 1) % 128].clone()).collect()
    };
    let mut all: Vec<Program> = [
        "bar.sync 0;",
        "bar.cta.sync 1;",
        "barrier.sync.aligned 3;",
        "barrier.cta.sync 5, 128;",
        "bar.sync 2, 128;",
        "barrier.sync 15;",
        "barrier.cluster.arrive;\nbarrier.cluster.wait;",
        "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;",
        "fence.acq_rel.cluster;\nbarrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;",
        "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\nbar.sync 0;",
    ]
    .iter()
    .map(|sync| Program::new(sync, [2, 128], [1, 1], any, &exchange(sync), neighbours))
    .collect();
    // Two warps bring, two take: those who bring do not wait.
    for (arrive, sync) in [
        ("bar.arrive 4, 128;", "bar.sync 4, 128;"),
        ("bar.cta.arrive 4, 128;", "barrier.cta.sync 4, 128;"),
        ("barrier.arrive.aligned 4, 128;", "barrier.cta.sync.aligned 4, 128;"),
        ("barrier.cta.arrive 9, 128;", "barrier.sync 9, 128;"),
    ] {
        let body = format!(
            ".shared .align 4 .b8 cells[1024];\nmov.u32 %r2, cells;\nmad.lo.u32 %r3, %l, 4, %r2;\nmov.u32 %d0, \
             0;\nsetp.ge.u32 %p0, %l, 64;\n@%p0 bra TAKE;\nst.shared.u32 [%r3], %a0;\n{arrive}\nbra.uni \
             END;\nTAKE:\n{sync}\nld.shared.u32 %d0, [%r3+-256];\nEND:"
        );
        all.push(Program::new(arrive, [2, 128], [1, 1], any, &body, |rows| {
            (0..rows.len()).map(|t| vec![if t % 128 < 64 { 0 } else { rows[t - 64][0] }]).collect()
        }));
    }
    let body = "setp.gt.u32 %p0, %a0, 1;\nbar.red.popc.u32 %d0, 0, %p0;\nbar.red.and.pred %p1, 0, 128, %p0;\n\
                selp.u32 %d1, 1, 0, %p1;\nbarrier.cta.red.or.aligned.pred %p1, 1, 128, !%p0;\nselp.u32 %d2, 1, 0, %p1;";
    all.push(Program::new(
        "bar.red",
        [3, 128],
        [1, 3],
        |random, thread, _| if thread < 128 { 2 + random.below(2) as u32 } else { random.below(4) as u32 },
        body,
        |rows| {
            (0..rows.len())
                .map(|t| {
                    let cta = &rows[t / 128 * 128..t / 128 * 128 + 128];
                    let above = cta.iter().filter(|r| r[0] > 1).count() as u32;
                    vec![above, (above == 128).into(), (above < 128).into()]
                })
                .collect()
        },
    ));
    all
}

/// Registers in parts.
fn moves() -> Vec<Program> {
    let body = "mov.b32 {%h0, %h1}, %a0;\nmov.b32 %d0, {%h1, %h0};\nmov.b64 %x0, {%a0, %a1};\nmov.b64 {%r2, %r3}, \
                %x0;\nmov.b64 {%h2, %h3, %h4, %h5}, %x0;\nmov.b64 %x1, {%h5, %h4, %h3, %h2};\nmov.b64 {%d1, %d2}, %x1;\n\
                mov.b64 {_, %d3}, %x0;\n.reg .b8 %b<4>;\nmov.b32 {%b0, %b1, %b2, %b3}, %a0;\nmov.b32 %d4, {%b3, %b2, %b1, \
                %b0};\nmov.b16 {%b0, %b1}, %h0;\nmov.b16 %h6, {%b1, %b0};\nmov.b32 %d5, {%h6, %h6};\nmov.f32 %d6, %a0;\n\
                mov.u16 %h7, 0x1234;\nmov.b32 %d7, {%h7, %h1};\n.reg .f64 %f;\nmov.f64 %f, 0d3FF0000000000000;\nmov.b64 \
                {%d8, %d9}, %f;\nmov.s32 %d10, -5;\nmov.f32 %d11, 0f3FC00000;\nmov.f32 %d12, 1.5;";
    vec![Program::new("mov of parts", [1, 64], [2, 13], any, body, |rows| {
        map(rows, |a| {
            let swapped = |x: u32| x.rotate_left(16);
            let low = (a[0] & 0xffff) as u16;
            let h6 = u32::from(low.swap_bytes());
            vec![
                swapped(a[0]),
                swapped(a[1]),
                swapped(a[0]),
                a[1],
                a[0].swap_bytes(),
                h6 | h6 << 16,
                a[0],
                0x1234 | a[0] & 0xffff_0000,
                0,
                0x3ff0_0000,
                -5i32 as u32,
                0x3fc0_0000,
                0x3fc0_0000,
            ]
        })
    })]
}

#[test]
fn control_flow_and_barriers() {
    check(&programs());
}
