//! The table: which module is of which level, and which modules it may name.

/// What a module may take of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The engine to be embedded, also in a browser: no file, thread, clock or environment.
    Core,
    /// With the feature `files`.
    Files,
    /// With the feature `cli`.
    Cli,
}
pub(crate) use Level::{Cli, Core, Files};

/// A module, or a part of one that differs from the rest; its level; and the modules that it may name.
pub(crate) type Row = (&'static str, Level, &'static [&'static str]);

/// To move a module into the core, say so here and take its `cfg` out of src/lib.rs.
pub(crate) const TABLE: &[Row] = &[
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
    (
        "checkpoint",
        Files,
        &["data", "diffusion", "files", "network", "ops", "output", "pickle", "pipeline", "setting"],
    ),
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
pub(crate) const MUTUAL: [&str; 2] = ["graph", "ops"];

/// What the core must not name, wherever a browser has none.
pub(crate) const OF_THE_SYSTEM: &[&[&str]] = &[
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
pub(crate) const OF_THE_DEVICE: [&str; 2] = ["wgpu", "naga"];

/// The row of a module: the longest that it lies in.
pub(crate) fn row(path: &[String]) -> Option<&'static Row> {
    let is_prefix = |name: &str| {
        let mut segments = path.iter();
        name.split("::").all(|part| segments.next().is_some_and(|segment| segment == part))
    };
    TABLE.iter().filter(|(name, ..)| is_prefix(name)).max_by_key(|(name, ..)| name.len())
}
