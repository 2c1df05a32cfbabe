//! The `ddpm-gpu` binary.
fn main() {}
