// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

/// The headers that the package ships, and libbpf's, of the release that is linked.
fn headers(folder: &Path) -> Vec<PathBuf> {
    fs::create_dir(folder.join("bpf")).unwrap();
    for (name, text) in libbpf_sys::API_HEADERS {
        fs::write(folder.join("bpf").join(name), text).unwrap();
    }
    vec![folder.to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("include")]
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

#[test]
fn an_object_is_named_after_its_program() {
    assert_eq!(object_of(Path::new("/x/a.bpf.c")).unwrap(), Path::new("/x/a.bpf.o"));
    assert!(object_of(Path::new("/x/a.c")).unwrap_err().to_string().contains("--output"));
    assert!(object_of(Path::new("/")).is_err());
}

#[test]
fn a_compiler_that_does_not_start_is_an_error() {
    let error = clang(Some("/no/such/clang".into())).unwrap_err().to_string();
    assert_eq!(error, "CLANG is /no/such/clang, which does not start");
}

#[test]
fn examples_compile_with_all_types_of_this_kernel() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["runqueue", "retransmits", "requests"] {
        let output = folder.path().join(format!("{name}.bpf.o"));
        let include = folder.path().join(name);
        fs::create_dir(&include).unwrap();
        let source = example(&format!("{name}.bpf.c"));
        let args = Args { source, output: Some(output.clone()), include: headers(&include), btf: None };
        run(&args).unwrap();
        let object = libbpf_rs::ObjectBuilder::default().open_file(&output).unwrap();
        assert!(object.progs().count() > 0, "{name}");
    }
}

#[test]
fn a_program_that_does_not_compile_leaves_the_object_alone() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("wrong.bpf.c");
    fs::write(&source, "not C at all").unwrap();
    let output = folder.path().join("wrong.bpf.o");
    fs::write(&output, "old").unwrap();
    let include = headers(folder.path());
    let error = run(&Args { source, output: None, include, btf: None }).unwrap_err().to_string();
    assert!(error.contains("wrong.bpf.c does not compile"), "{error}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "old");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.contains(&"wrong.bpf.o.new".into()));
}

#[test]
fn a_file_that_is_no_btf_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let btf = folder.path().join("btf");
    fs::write(&btf, "no BTF").unwrap();
    let include = headers(folder.path());
    let args = Args { source: example("runqueue.bpf.c"), output: Some(btf.clone()), include, btf: Some(btf) };
    assert!(format!("{:#}", run(&args).unwrap_err()).contains("is no BTF"));
}
