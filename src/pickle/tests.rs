#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

mod written_by_python;

use written_by_python::PICKLES;

#[test]
fn every_protocol_of_python_2_and_3_gives_the_same_values() {
    for (name, bytes) in PICKLES {
        let pickle = Pickle::read(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let entry = |key| pickle.entry(pickle.root(), key).unwrap_or_else(|| panic!("{name}: no {key}"));
        let Node::List(labels) = pickle.node(entry("labels")) else { panic!("{name}: labels") };
        assert_eq!(labels.iter().map(|&id| pickle.node(id)).collect::<Vec<_>>(), [&Node::Int(3)], "{name}");
        let Node::Tuple(more) = pickle.node(entry("more")) else { panic!("{name}: more") };
        let expected = [
            Node::Bool(true),
            Node::None,
            Node::Int(-5),
            Node::Int(300),
            Node::Int(70_000),
            Node::Int(-(1 << 40)),
            Node::Float(0.5),
            Node::Text("é€".into()),
        ];
        assert_eq!(more.len(), expected.len(), "{name}");
        for (&found, expected) in more.iter().zip(&expected) {
            assert_eq!(pickle.node(found), expected, "{name}");
        }
        // the array: its bytes are in the state of the call, or among its arguments
        let call = pickle.call(entry("data")).unwrap();
        let parts = match call.state {
            Some(state) => {
                assert_eq!((call.module, call.name), ("numpy.core.multiarray", "_reconstruct"), "{name}");
                let Node::Tuple(parts) = pickle.node(state) else { panic!("{name}: state") };
                parts
            }
            None => call.arguments,
        };
        let bytes: Vec<_> = parts.iter().filter_map(|&part| pickle.bytes(part)).collect();
        assert!(bytes.iter().any(|bytes| **bytes == [0, 10, 92, 255]), "{name}: {bytes:?}");
    }
}

#[test]
fn every_cut_is_an_error() {
    for (name, bytes) in PICKLES {
        for length in 0..bytes.len() {
            assert!(Pickle::read(&bytes[..length]).is_err(), "{name}: {length}");
        }
    }
}

fn error(bytes: &[u8]) -> PickleError {
    Pickle::read(bytes).unwrap_err()
}

/// Doubling by DUP and TUPLE2 makes 2^27 values of 59 bytes where values are cloned.
#[test]
fn opcodes_that_plain_data_do_not_need_are_refused() {
    let mut doubling = b"\x80\x02N".to_vec();
    doubling.extend(b"2\x86".repeat(27));
    doubling.push(b'.');
    assert_eq!(error(&doubling), PickleError::Opcode { code: b'2', at: 3 });
    for (code, name) in NOT_RUN {
        let refusal = error(&[b'N', code, b'.']);
        assert_eq!(refusal, PickleError::Opcode { code, at: 1 });
        assert!(refusal.to_string().starts_with(&format!("the opcode {name} at byte 1")), "{refusal}");
    }
}

/// All 256 bytes in the place of an opcode: those that are run, those that are refused by name, and the rest.
#[test]
fn every_byte_is_run_or_refused() {
    const RUN: &[u8] = b"().abcdeghjlpqrstu]}BCFGIJKLMNQRSTUVX";
    let is_run = |code: u8| {
        RUN.contains(&code)
            || [0x80..=0x81, 0x85..=0x8e, 0x93..=0x96].iter().any(|codes| codes.contains(&code))
    };
    for code in 0..=u8::MAX {
        let refused = match Pickle::read(&[code]) {
            Err(PickleError::Opcode { code: found, at: 0 }) => found == code,
            _ => false,
        };
        assert_eq!(refused, !is_run(code), "{code:#04x}");
        let named = NOT_RUN.iter().any(|(known, _)| *known == code);
        assert!(!(named && is_run(code)), "{code:#04x}");
    }
}

/// A value that refers to itself twice a level has 2^n leaves; here it is n nodes.
#[test]
fn doubling_through_the_memo_takes_no_memory() {
    let mut bytes = b"Nq\x00".to_vec();
    bytes.extend(b"h\x00h\x00\x86q\x00".repeat(10_000));
    bytes.push(b'.');
    let pickle = Pickle::read(&bytes).unwrap();
    assert_eq!(pickle.nodes.len(), 10_001);
}

#[test]
fn deep_nesting_and_cycles_take_no_stack() {
    let depth = 1_000_000;
    let lists = [vec![b']'; depth], vec![b'a'; depth - 1], b".".to_vec()].concat();
    assert_eq!(Pickle::read(&lists).unwrap().nodes.len(), depth);
    let tuples = [b"N".to_vec(), vec![0x85; depth], b".".to_vec()].concat();
    assert_eq!(Pickle::read(&tuples).unwrap().nodes.len(), depth + 1);
    let itself = Pickle::read(b"]q\x00h\x00a.").unwrap();
    assert_eq!(itself.node(itself.root()), &Node::List(vec![itself.root()]));
}

#[test]
fn cycles_are_found_and_shared_values_are_none() {
    let has_cycle = |bytes: &[u8]| Pickle::read(bytes).unwrap().has_cycle();
    assert!(has_cycle(b"]q\x00h\x00a."));
    assert!(has_cycle(b"]q\x00h\x00\x85a."));
    assert!(has_cycle(b"}q\x00Nh\x00s."));
    assert!(has_cycle(b"cm\nn\n)Rq\x00Nh\x00s."));
    assert!(has_cycle(b"cm\nn\n)Rq\x00h\x00b."));
    assert!(has_cycle(b"]q\x00h\x00Qa."));
    // Twice the same value, one after the other, one in the other.
    assert!(!has_cycle(b"]q\x00h\x00\x86."));
    assert!(!has_cycle(b"]q\x00h\x00\x85h\x00\x86."));
    // 2^10000 ways through the same values, and a depth that no stack of calls has.
    let mut doubling = b"Nq\x00".to_vec();
    doubling.extend(b"h\x00h\x00\x86q\x00".repeat(10_000));
    doubling.push(b'.');
    assert!(!has_cycle(&doubling));
    let depth = 1_000_000;
    assert!(!has_cycle(&[vec![b']'; depth], vec![b'a'; depth - 1], b".".to_vec()].concat()));
}

#[test]
fn calls_have_entries_and_states_and_persistent_names() {
    let pickle = Pickle::read(b"ccollections\nOrderedDict\n)R(Va\nK\x01Vb\nVid\nQuVc\nNsNb.").unwrap();
    let entries = pickle.entries(pickle.root()).unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(pickle.node(entries[0].1), &Node::Int(1));
    let &Node::Persistent(name) = pickle.node(entries[1].1) else { panic!() };
    assert_eq!(pickle.node(name), &Node::Text("id".into()));
    assert_eq!(pickle.call(pickle.root()).unwrap().state.map(|id| pickle.node(id)), Some(&Node::None));
    assert_eq!(pickle.imports().collect::<Vec<_>>(), [("collections", "OrderedDict")]);
    let (first, rest) = Pickle::read_first(b"K\x05.N.").unwrap();
    assert_eq!((first.node(first.root()), rest), (&Node::Int(5), &b"N."[..]));
}

#[test]
fn what_is_kept_is_bounded() {
    let many = MAX_VALUES + 1;
    for flood in [vec![b'N'; many], vec![b'('; many], [b"N".to_vec(), vec![0x94; many]].concat()] {
        assert_eq!(error(&flood), PickleError::TooMany);
    }
    // entries of a list that are all the same value
    let mut entries = b"]q\x00".to_vec();
    entries.extend(b"h\x00a".repeat(many / 2 + 1));
    assert_eq!(error(&entries), PickleError::TooMany);
}

#[test]
fn lengths_beyond_the_file_are_errors_before_anything_is_allocated() {
    for opcode in [b"\x8e".as_slice(), b"\x8d", b"\x96", b"\x95"] {
        for length in [u64::MAX, i64::MAX as u64, 1 << 40, 9] {
            let bytes = [opcode, &length.to_le_bytes(), b"12345678"].concat();
            assert_eq!(error(&bytes), PickleError::Cut(0), "{opcode:?} {length}");
        }
    }
    for opcode in [b"\x8b".as_slice(), b"B", b"T", b"X"] {
        let bytes = [opcode, &u32::MAX.to_le_bytes(), b"12345678"].concat();
        assert_eq!(error(&bytes), PickleError::Cut(0), "{opcode:?}");
    }
}

#[test]
fn what_makes_no_sense_is_said() {
    for (bytes, words) in [
        (b"\x80\x06N.".as_slice(), "protocol above 5"),
        (b".", "too little on the stack"),
        (b"N(.", "too little on the stack"),
        (b"t.", "no mark"),
        (b"NNa.", "no list"),
        (b"NNNs.", "no dictionary"),
        (b"(Nd.", "a key without a value"),
        (b"h\x07.", "never stored"),
        (b"NNR.", "no function"),
        (b"NNb.", "a state"),
        (b"NN\x93.", "an import"),
        (b"Ifive\n.", "a number that is none"),
        (b"S'a\\q'\n.", "escapes"),
        (b"Sa\n.", "quotes"),
        (b"V\\ud800\n.", "no letter"),
        (b"U\x01\xff.", ""),
        (b"X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x8a\x09123456789.", "64 bits"),
    ] {
        match Pickle::read(bytes) {
            Ok(_) => assert_eq!(words, "", "{bytes:?}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!words.is_empty() && error.contains(words), "{bytes:?}: {error}");
            }
        }
    }
}

#[test]
fn a_changed_byte_never_panics() {
    for (_, bytes) in PICKLES {
        for at in 0..bytes.len() {
            for byte in [0, 1, b'.', b'(', b'a', b'e', b's', b'u', b'h', b'R', b'b', b't', 0x85, 0x93, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[at] = byte;
                let Ok(pickle) = Pickle::read(&bytes) else { continue };
                for number in 0..pickle.nodes.len() {
                    let id = Id(number as u32);
                    let _ = (pickle.kind(id), pickle.call(id), pickle.bytes(id), pickle.entry(id, "data"));
                }
            }
        }
    }
}
