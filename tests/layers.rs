//! Who may know whom: one table, held against the paths that the sources name.
//!
//! cli -> workbench -> train -> evaluate -> sample -> pipeline -> network + diffusion + sampler -> graph -> ops -> device.
//! Graph and ops know each other: a graph holds calls of ops, and an op's gradient rule appends to a graph. A device runs
//! plans of graphs, so it stands beside that line rather than below it: what graphs know of devices is what WebGPU
//! promises of all (`device::webgpu`), and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a module may take of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The engine to be embedded, also in a browser: no file, thread, clock or environment.
    Core,
    /// With the feature `files`.
    Files,
    /// With the feature `cli`.
    Cli,
}
use Level::{Cli, Core, Files};

/// A module, or a part of one that differs from the rest; its level; and the modules that it may name.
type Row = (&'static str, Level, &'static [&'static str]);

/// To move a module into the core, say so here and take its `cfg` out of src/lib.rs.
const TABLE: &[Row] = &[
    ("main", Cli, &["cli"]),
    (
        "cli",
        Cli,
        &[
            "checkpoint",
            "conditions",
            "data",
            "device",
            "diffusion",
            "evaluate",
            "files",
            "graph",
            "image_size",
            "log",
            "memory",
            "network",
            "ops",
            "output",
            "pipeline",
            "sample",
            "sampler",
            "setting",
            "train",
            "tuning_folder",
            "workbench",
        ],
    ),
    (
        "workbench",
        Files,
        &[
            "conditions",
            "data",
            "device",
            "diffusion",
            "graph",
            "network",
            "ops",
            "pipeline",
            "random",
            "sample",
            "sampler",
            "train",
        ],
    ),
    (
        "train",
        Files,
        &[
            "checkpoint",
            "conditions",
            "data",
            "device",
            "diffusion",
            "evaluate",
            "graph",
            "image_size",
            "log",
            "memory",
            "network",
            "ops",
            "output",
            "pipeline",
            "random",
            "sample",
            "sampler",
            "setting",
        ],
    ),
    (
        "evaluate",
        Files,
        &[
            "conditions",
            "data",
            "device",
            "diffusion",
            "graph",
            "image_size",
            "network",
            "normal",
            "ops",
            "pipeline",
            "random",
            "sample",
            "sampler",
            "setting",
        ],
    ),
    ("checkpoint", Files, &["data", "diffusion", "files", "network", "ops", "output", "pipeline"]),
    ("data", Files, &["conditions", "files", "hash", "image_size", "output", "pickle", "random"]),
    ("log", Files, &["files", "output"]),
    ("output", Files, &["files", "image_size"]),
    ("tuning_folder", Files, &["device", "files", "output"]),
    ("pickle", Files, &[]),
    ("files", Files, &[]),
    (
        "sample",
        Core,
        &[
            "conditions",
            "device",
            "diffusion",
            "graph",
            "image_size",
            "memory",
            "network",
            "ops",
            "pipeline",
            "random",
            "sampler",
            "setting",
        ],
    ),
    ("pipeline", Core, &["diffusion", "network"]),
    ("sampler", Core, &["diffusion", "ops"]),
    ("diffusion", Core, &["normal"]),
    ("network", Core, &["conditions", "device", "graph", "image_size", "ops", "random"]),
    ("conditions", Core, &[]),
    ("device", Core, &["device::webgpu", "graph", "hash", "host", "memory", "ops"]),
    ("graph", Core, &["device::webgpu", "ops", "random"]),
    ("ops", Core, &["graph", "normal", "random"]),
    ("random", Core, &[]),
    ("normal", Core, &[]),
    ("device::webgpu", Core, &[]),
    ("image_size", Core, &[]),
    ("setting", Core, &[]),
    ("memory", Core, &[]),
    ("hash", Core, &[]),
    ("host", Core, &[]),
    ("host::system", Files, &["files", "host"]),
];

/// The only two modules that name each other.
const MUTUAL: [&str; 2] = ["graph", "ops"];

/// What the core must not name, wherever a browser has none.
const OF_THE_SYSTEM: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "thread"],
    &["std", "env"],
    &["std", "net"],
    &["std", "process"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "time", "UNIX_EPOCH"],
];

/// Crates that only `device` names.
const OF_THE_DEVICE: [&str; 2] = ["wgpu", "naga"];

/// The row of a module: the longest that it lies in.
fn row(path: &[String]) -> Option<&'static Row> {
    let is_prefix = |name: &str| {
        let mut segments = path.iter();
        name.split("::").all(|part| segments.next().is_some_and(|segment| segment == part))
    };
    TABLE.iter().filter(|(name, ..)| is_prefix(name)).max_by_key(|(name, ..)| name.len())
}

/// What a file holds, apart from tests: paths that it names, and modules that only tests have. Code behind `#[cfg(test)]`
/// is exempt, since a test of a lower layer may well be written by means of a higher one.
#[derive(Debug, Default)]
struct Found {
    paths: Vec<Vec<String>>,
    tests: Vec<Vec<String>>,
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, wanted: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == wanted => Some(group.stream()),
        _ => None,
    }
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// The attribute at `#`, as text without spaces.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<String> {
    let inside = is_punct(tokens.get(at), '#').then(|| group(tokens.get(at + 1), Delimiter::Bracket))??;
    Some(inside.to_string().replace(' ', ""))
}

/// Where the item, field or statement ends that begins at `at`.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while attribute(tokens, at).is_some() {
        at += 2;
    }
    if group(tokens.get(at), Delimiter::Brace).is_some() {
        return at + 1;
    }
    let mut first = at;
    while ident(tokens.get(first)).is_some_and(|word| word == "pub") {
        first += 1 + usize::from(group(tokens.get(first + 1), Delimiter::Parenthesis).is_some());
    }
    let word = ident(tokens.get(first)).unwrap_or_default();
    let ends_with_block = ["fn", "mod", "struct", "enum", "impl", "trait", "unsafe", "async"];
    let is_item = ends_with_block.contains(&word.as_str())
        || ["use", "const", "static", "type", "let"].contains(&word.as_str());
    while at < tokens.len() {
        let is_block = group(tokens.get(at), Delimiter::Brace).is_some();
        let is_end = is_punct(tokens.get(at), ';') || (!is_item && is_punct(tokens.get(at), ','));
        at += 1;
        if is_end || (is_block && ends_with_block.contains(&word.as_str())) {
            break;
        }
    }
    at
}

/// Takes down a path that begins at `at` with `prefix` before it, and gives where it ends.
fn follow(tokens: &[TokenTree], mut at: usize, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    loop {
        if let Some(inside) = group(tokens.get(at), Delimiter::Brace) {
            let inside: Vec<TokenTree> = inside.into_iter().collect();
            for part in inside.split(|token| is_punct(Some(token), ',')).filter(|part| !part.is_empty()) {
                follow(part, 0, path.clone(), paths);
            }
            return at + 1;
        }
        match ident(tokens.get(at)) {
            Some(word) if word != "self" => path.push(word),
            _ => {}
        }
        at += 1;
        let goes_on = is_path_separator(tokens, at)
            && (ident(tokens.get(at + 2)).is_some() || group(tokens.get(at + 2), Delimiter::Brace).is_some());
        if !goes_on {
            paths.push(path);
            return at;
        }
        at += 2;
    }
}

/// Reads the tokens of a module.
fn read(tokens: TokenStream, module: &[String], found: &mut Found) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(attribute) = attribute(&tokens, at) {
            if attribute.starts_with("cfg(test") || attribute.starts_with("cfg(all(test") {
                let end = end_of_item(&tokens, at);
                let words: Vec<String> =
                    tokens[at..end].iter().filter_map(|token| ident(Some(token))).collect();
                if let Some(place) = words.iter().position(|word| word == "mod") {
                    found.tests.push([module, &words[place + 1..place + 2]].concat());
                }
                at = end;
            } else {
                at += 2;
            }
            continue;
        }
        let word = ident(tokens.get(at));
        if word.as_deref() == Some("mod")
            && let (Some(name), Some(inside)) =
                (ident(tokens.get(at + 1)), group(tokens.get(at + 2), Delimiter::Brace))
        {
            read(inside, &[module, &[name]].concat(), found);
            at += 3;
            continue;
        }
        if word.is_some() && (is_path_separator(&tokens, at + 1) || word.as_deref() == Some("use")) {
            at += usize::from(word.as_deref() == Some("use"));
            let mut paths = Vec::new();
            at = follow(&tokens, at, Vec::new(), &mut paths);
            found.paths.extend(paths.into_iter().map(|path| resolve(path, module)));
            continue;
        }
        if let Some(TokenTree::Group(group)) = tokens.get(at) {
            read(group.stream(), module, found);
        }
        at += 1;
    }
}

/// A path from the root of the crate, where it begins with `super` or with the library's name.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let up = path.iter().take_while(|word| *word == "super").count();
    if up > 0 {
        let base = &module[..module.len().saturating_sub(up)];
        return [&["crate".to_owned()], base, &path[up..]].concat();
    }
    match path.first().map(String::as_str) {
        Some("ddpm_gpu") => [&["crate".to_owned()], &path[1..]].concat(),
        _ => path,
    }
}

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
