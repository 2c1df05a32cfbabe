//! Who may know whom: one table, held against the paths that the sources name.
//!
//! cli -> workbench -> train -> evaluate -> sample -> pipeline -> network + diffusion + sampler -> graph -> ops ->
//! device. Graph and ops know each other: a graph holds calls of ops, and an op's gradient rule appends to a graph. A
//! device runs plans of graphs, so it stands beside that line rather than below it: what graphs know of devices is
//! what WebGPU promises of all (`device::webgpu`), and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

mod paths;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use paths::{Found, attribute, ident, read};
use table::{Cli, Core, Files, MUTUAL, OF_THE_DEVICE, OF_THE_SYSTEM, TABLE, row};

/// What a path does that the module's row does not allow.
fn fault(path: &[String], module: &[String]) -> Option<String> {
    let Some((name, level, allowed)) = row(module) else {
        return Some(format!("{} has no row in the table", module.join("::")));
    };
    let written = path.join("::");
    let first = path.first().map(String::as_str).unwrap_or_default();
    if first == "crate" {
        return match row(&path[1..]) {
            Some((target, ..)) if target == name || allowed.contains(target) => None,
            Some((target, ..)) => Some(format!("{name} names {written}, but may not know {target}")),
            None => Some(format!("{name} names {written}, which is in no module of the table")),
        };
    }
    if OF_THE_DEVICE.contains(&first) && name.split("::").next() != Some("device") {
        return Some(format!("{name} names {written}, which only device may"));
    }
    // Also by way of a module that holds it, as `use std::time;` is.
    let reaches = |known: &&[&str]| path.iter().zip(known.iter()).all(|(word, known)| word == known);
    if *level == Core && path.len() > 1 && OF_THE_SYSTEM.iter().any(reaches) {
        return Some(format!("{name} names {written}, but belongs to the core, which no system need have"));
    }
    None
}

/// Every source file by its module.
fn sources(folder: &Path, module: &[String], files: &mut BTreeMap<Vec<String>, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = if stem == "mod" { module.to_vec() } else { [module, &[stem]].concat() };
        if path.is_dir() {
            sources(&path, &inner, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            assert!(files.insert(inner, fs::read_to_string(&path).unwrap()).is_none(), "{}", path.display());
        }
    }
}

/// The faults of files, each given with its module.
fn faults(files: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let mut read_files = Vec::new();
    let mut tests = BTreeSet::new();
    for (module, text) in files {
        let mut found = Found::default();
        let tokens = text.parse().unwrap_or_else(|error| panic!("{}: {error}", module.join("::")));
        read(tokens, module, &mut found);
        tests.extend(found.tests);
        read_files.push((module, found.paths));
    }
    let is_test = |module: &[String]| tests.iter().any(|test| module.starts_with(test));
    let mut faults = BTreeSet::new();
    for (module, paths) in read_files.into_iter().filter(|(module, _)| !is_test(module)) {
        let of_file = paths.iter().filter_map(|path| fault(path, module));
        faults.extend(of_file.map(|fault| format!("src/{}: {fault}", module.join("/"))));
    }
    faults.into_iter().collect()
}

fn src() -> BTreeMap<Vec<String>, String> {
    let mut files = BTreeMap::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut files);
    files.remove(&["lib".to_owned()][..]).expect("the library has a root");
    files
}

#[test]
fn modules_name_only_what_the_table_allows() {
    let files = src();
    assert!(files.len() > 200, "{} files", files.len());
    let faults = faults(&files);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The rows are modules that are there, they name rows, and only graph and ops go round in a circle.
#[test]
fn the_table_is_of_layers() {
    let files = src();
    for (name, level, allowed) in TABLE {
        let module: Vec<String> = name.split("::").map(str::to_owned).collect();
        assert!(files.keys().any(|file| file.starts_with(&module)), "there is no module {name}");
        for target in *allowed {
            let (_, of_target, _) = TABLE
                .iter()
                .find(|(known, ..)| known == target)
                .unwrap_or_else(|| panic!("{target} has no row"));
            assert!(*level != Core || *of_target == Core, "{name} is in the core, and {target} is not");
        }
    }
    let mut below: BTreeSet<&str> = BTreeSet::new();
    loop {
        let is_known = |name: &str, target: &&&str| {
            below.contains(**target) || (MUTUAL.contains(&name) && MUTUAL.contains(*target))
        };
        let next = TABLE.iter().find(|(name, _, allowed)| {
            !below.contains(name) && allowed.iter().all(|target| is_known(name, &target))
        });
        let Some((name, ..)) = next else { break };
        below.insert(name);
    }
    let circle: Vec<&str> =
        TABLE.iter().map(|(name, ..)| *name).filter(|name| !below.contains(name)).collect();
    assert!(circle.is_empty(), "these know each other in a circle: {circle:?}");
}

/// src/lib.rs has the modules of the core without a feature, and the others with theirs.
#[test]
fn features_are_those_of_the_table() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let tokens: Vec<TokenTree> = text.parse::<TokenStream>().unwrap().into_iter().collect();
    let (mut gated, mut of_tests) = (false, false);
    let mut seen = BTreeSet::new();
    for at in 0..tokens.len() {
        if let Some(attribute) = attribute(&tokens, at) {
            gated |= attribute == "cfg(feature=\"files\")";
            of_tests |= attribute == "cfg(test)";
        }
        if ident(tokens.get(at)).is_some_and(|word| word == "mod") {
            if std::mem::take(&mut of_tests) {
                continue;
            }
            let name = ident(tokens.get(at + 1)).unwrap();
            let (_, level, _) =
                row(std::slice::from_ref(&name)).unwrap_or_else(|| panic!("{name} has no row"));
            assert_eq!(gated, *level == Files, "{name} is of level {level:?}");
            gated = false;
            seen.insert(name);
        }
    }
    let of_library = TABLE.iter().filter(|(name, level, _)| *level != Cli && !name.contains("::"));
    assert_eq!(seen, of_library.map(|(name, ..)| (*name).to_owned()).collect());
}

/// The faults of a made-up file.
fn faults_of(module: &str, text: &str) -> Vec<String> {
    let module = module.split("::").map(str::to_owned).collect();
    faults(&BTreeMap::from([(module, text.to_owned())]))
}

#[test]
fn what_a_file_should_not_name_is_found() {
    let named = |text: &str, what: &str| {
        let faults = faults_of("graph::plan", text);
        assert!(
            faults.len() == 1 && faults[0].contains(&format!("graph names {what},")),
            "{text}: {faults:?}"
        );
    };
    named("use crate::train::Trainer;", "crate::train::Trainer");
    named(
        "use crate::{ops::Op, network::{UNetConfig}, device::webgpu::MAX_BUFFER_BYTES};\nuse std::io;",
        "crate::network::UNetConfig",
    );
    named("use super::super::device::Device;", "crate::device::Device");
    named("mod inner { use super::super::super::data; }", "crate::data");
    named("fn f() -> crate::workbench::Walk { g::<u32>() }", "crate::workbench::Walk");
    named("fn f() { let x = [std::fs::read(\"a\")]; }", "std::fs::read");
    named("use std::{collections::HashMap, time::{Duration, Instant}};", "std::time::Instant");
    named("use std::time;", "std::time");
    named("macro_rules! a { () => { std::env::var_os(\"A\") }; }", "std::env::var_os");
    named("struct A { #[cfg(test)] a: std::fs::File, b: std::thread::Thread }", "std::thread::Thread");
    named("#[cfg(not(test))] use std::fs::File;", "std::fs::File");
    named("#[cfg(test)] fn f<A, B>() { } fn g(queue: &wgpu::Queue) {}", "wgpu::Queue");
    named("use crate::elsewhere::A;", "crate::elsewhere::A");
}

#[test]
fn what_a_file_may_name_is_not() {
    for text in [
        "use crate::ops::{Op, Types}; use super::Graph; use std::time::Duration;",
        "// crate::train\n/* std::fs */ /// [`crate::data`]\nfn f() -> &'static str { \"std::fs::read\" }",
        "#[cfg(test)] #[allow(a)] mod tests { use crate::network::UNetConfig; fn f() { std::fs::read(\"a\"); } }",
        "#[cfg(test)] use crate::{network::UNetConfig, data};",
        "fn f() { A { #[cfg(test)] a: std::fs::read(\"a\"), b: 1 }; #[cfg(test)] { std::thread::yield_now(); } }",
    ] {
        assert_eq!(faults_of("graph::plan", text), [""; 0], "{text}");
    }
    assert_eq!(faults_of("device::gpu", "use crate::host::clock; fn f(_: wgpu::Queue) {}"), [""; 0]);
    assert_eq!(faults_of("cli::train", "use ddpm_gpu::train::Trainer; use super::device;"), [""; 0]);
    assert!(faults_of("novelty", "use std::io;")[0].contains("novelty has no row"));
}

/// A file that only tests have is known by its declaration.
#[test]
fn files_of_tests_are_exempt() {
    let file = |module: &str, text: &str| (module.split("::").map(str::to_owned).collect(), text.to_owned());
    let test = file("graph::tests", "use crate::network::unet;");
    let declared = file("graph", "#[cfg(test)]\nmod tests;");
    assert_eq!(faults(&BTreeMap::from([declared, test.clone()])), [""; 0]);
    let undeclared = file("graph", "mod tests;");
    assert_eq!(faults(&BTreeMap::from([undeclared, test])).len(), 1);
}
