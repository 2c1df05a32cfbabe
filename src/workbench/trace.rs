//! A profile in the Trace Event Format (Google, 2016), which ui.perfetto.dev and chrome://tracing show.

use serde_json::{Value, json};

use super::{Dispatch, Profile};

/// Threads of the trace: modules and kernels nest by time on one, counters need none.
const DEVICE: u32 = 1;

/// The timed step with its modules as nested slices, and the bytes that are alive as a counter; `device` names the track.
pub fn trace(profile: &Profile, device: &str) -> Value {
    let mut events = vec![
        json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "ddpm-gpu"}}),
        json!({"ph": "M", "pid": 1, "tid": DEVICE, "name": "thread_name", "args": {"name": device}}),
    ];
    modules(&profile.dispatches, 0, &mut events);
    for dispatch in &profile.dispatches {
        let arguments = json!({"module": dispatch.path, "op": dispatch.op, "bytes": dispatch.bytes, "flops": dispatch.flops});
        events.push(slice(&dispatch.kernel, "kernel", dispatch.start, dispatch.seconds, arguments));
        events.push(json!({
            "ph": "C", "pid": 1, "name": "activations", "ts": microseconds(dispatch.start),
            "args": {"bytes": dispatch.alive_bytes},
        }));
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}

fn microseconds(seconds: f64) -> f64 {
    1e6 * seconds
}

fn slice(name: &str, category: &str, start: f64, seconds: f64, arguments: Value) -> Value {
    json!({
        "ph": "X", "pid": 1, "tid": DEVICE, "name": name, "cat": category,
        "ts": microseconds(start), "dur": microseconds(seconds), "args": arguments,
    })
}

/// A slice for each run of dispatches that share the module at `depth`, from the first one's beginning to the last one's
/// end; then those of the modules inside.
fn modules(dispatches: &[Dispatch], depth: usize, events: &mut Vec<Value>) {
    let name = |dispatch: &Dispatch| dispatch.path.split('.').nth(depth).map(str::to_owned);
    for run in dispatches.chunk_by(|a, b| name(a) == name(b)) {
        if let ([first, ..], [.., last]) = (run, run)
            && let Some(name) = name(first).filter(|name| !name.is_empty())
        {
            let seconds = last.start + last.seconds - first.start;
            events.push(slice(&name, "module", first.start, seconds, json!({})));
            modules(run, depth + 1, events);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn dispatch(path: &str, kernel: &str, start: f64, seconds: f64) -> Dispatch {
        let (path, kernel) = (path.to_owned(), kernel.to_owned());
        Dispatch {
            path,
            op: "silu.forward",
            kernel,
            start,
            seconds,
            is_recomputed: false,
            bytes: 8,
            flops: 4,
            alive_bytes: 64,
        }
    }

    /// Viewers nest slices by time alone, so a module has to enclose its kernels, and neighbours must not touch.
    #[test]
    fn slices_nest_as_the_modules_do() {
        let profile = Profile {
            steps: 1,
            by_device_clock: true,
            empty_dispatch_seconds: Some(2e-6),
            step_seconds: 1.0,
            host_seconds: 0.0,
            dispatches: vec![
                dispatch("down.0.conv", "a", 0.0, 0.1),
                dispatch("down.0.norm", "b", 0.2, 0.1),
                dispatch("down.1.conv", "c", 0.4, 0.2),
                dispatch("up.0.conv", "d", 0.7, 0.1),
            ],
            memory: Vec::new(),
        };
        let trace = trace(&profile, "adapter");
        let slices: Vec<(String, f64, f64)> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                (event["name"].as_str().unwrap().to_owned(), start.round(), (start + length).round())
            })
            .collect();
        let span =
            |name: &str| slices.iter().find(|slice| slice.0 == name).map(|slice| (slice.1, slice.2)).unwrap();
        assert_eq!(span("down"), (0.0, 600_000.0));
        assert_eq!(span("norm"), span("b"));
        assert_eq!(span("up"), (700_000.0, 800_000.0));
        let overlaps = |a: &(String, f64, f64), b: &(String, f64, f64)| {
            let (starts_inside, ends_inside) = (a.1 < b.1 && b.1 < a.2, a.1 < b.2 && b.2 < a.2);
            b.1 >= a.1 && starts_inside && b.2 > a.2 && !ends_inside
        };
        for a in &slices {
            assert!(!slices.iter().any(|b| overlaps(a, b)), "{} is cut", a.0);
        }
    }
}
