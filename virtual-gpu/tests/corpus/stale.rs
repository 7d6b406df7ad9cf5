//! The committed PTX belongs to the committed sources.

use std::fs;
use std::path::Path;

fn fnv1a(data: &[u8]) -> u64 {
    data.iter()
        .fold(0xcbf2_9ce4_8422_2325, |value, &byte| (value ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}

fn files(folder: &str, extension: &str) -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn the_ptx_was_compiled_from_these_sources() {
    let headers: Vec<u8> =
        files("cuda", "cuh").iter().flat_map(|path| fs::read(path).expect("header")).collect();
    let mut expected = Vec::new();
    for source in files("cuda", "cu") {
        let mut bytes = fs::read(&source).expect("source");
        let text = String::from_utf8(bytes.clone()).expect("UTF-8");
        let targets =
            text.lines().next().and_then(|line| line.strip_prefix("// targets: ")).expect("targets");
        bytes.extend(&headers);
        let name = source.file_name().unwrap().to_str().unwrap();
        let head = format!("// source: tests/cuda/{name} {:016x}", fnv1a(&bytes));
        for target in targets.split(' ') {
            let ptx = format!("{}.{target}.ptx", source.file_stem().unwrap().to_str().unwrap());
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx").join(&ptx);
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|_| panic!("{ptx} is missing: run tests/compile.py"));
            assert_eq!(text.lines().next(), Some(head.as_str()), "{ptx} is stale: run tests/compile.py");
            expected.push(path);
        }
    }
    expected.sort();
    assert_eq!(files("ptx", "ptx"), expected, "every PTX has a source");
}

#[test]
fn the_ptx_names_no_path_of_a_machine() {
    for path in files("ptx", "ptx") {
        let text = fs::read_to_string(&path).expect("PTX");
        let bad = text.lines().find(|line| line.contains(".file") && line.contains("\"/"));
        assert_eq!(bad, None, "{}", path.display());
    }
}
