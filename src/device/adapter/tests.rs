use pollster::block_on;

use super::*;

fn adapter(number: usize, name: &str, driver: &str, backend: &str, is_hardware: bool) -> AdapterReport {
    AdapterReport {
        number,
        name: name.to_owned(),
        driver: driver.to_owned(),
        backend: backend.to_owned(),
        shader_compiler: None,
        is_hardware,
        kind: String::new(),
        subgroup_size: [32, 32],
        features: Vec::new(),
        cooperative_matrices: Vec::new(),
        limits: Vec::new(),
    }
}

/// Two equal cards, one of them over DX12 as well, and two drivers of Mesa.
fn machine() -> Vec<AdapterReport> {
    vec![
        adapter(0, "NVIDIA RTX 4090", "NVIDIA 570", "vulkan", true),
        adapter(1, "NVIDIA RTX 4090", "NVIDIA 570", "vulkan", true),
        adapter(2, "NVIDIA RTX 4090", "32.0.15", "dx12", true),
        adapter(3, "AMD Radeon 780M (RADV PHOENIX)", "radv Mesa 25.0", "vulkan", true),
        adapter(4, "llvmpipe (LLVM 19.1)", "llvmpipe Mesa 25.0", "vulkan", false),
        adapter(5, "NVIDIA RTX 4090 Laptop GPU", "NVIDIA 570", "vulkan", true),
    ]
}

fn chosen(selection: &str, backend: Option<Backend>) -> Result<Option<usize>, String> {
    choose(&machine(), &selection.parse().unwrap(), backend).map_err(|error| error.to_string())
}

#[test]
fn words_numbers_and_names_are_told_apart() {
    for (text, selection) in [
        ("auto", Selection::Auto),
        (" CPU ", Selection::Cpu),
        ("Gpu", Selection::Gpu),
        ("1", Selection::Number(1)),
        ("007", Selection::Number(7)),
        ("RTX 4090", Selection::Name("RTX 4090".to_owned())),
        ("-1", Selection::Name("-1".to_owned())),
    ] {
        assert_eq!(text.parse::<Selection>().unwrap(), selection);
    }
    for blank in ["", " ", "\t\n"] {
        assert!(blank.parse::<Selection>().unwrap_err().to_string().contains("number"), "{blank:?}");
    }
}

#[test]
fn a_number_is_that_of_the_list() {
    for number in 0..6 {
        assert_eq!(chosen(&number.to_string(), None), Ok(Some(number)));
    }
    let message = chosen("6", None).unwrap_err();
    assert!(message.contains("no adapter has number 6; there is: 0: NVIDIA RTX 4090 (driver"), "{message}");
    assert!(
        message.contains("4: llvmpipe (LLVM 19.1) (driver llvmpipe Mesa 25.0, over vulkan)"),
        "{message}"
    );
}

#[test]
fn what_matches_several_adapters_is_refused_with_their_numbers() {
    for (text, numbers) in [("mesa", &[3, 4][..]), ("rtx", &[0, 1, 2, 5]), ("nvidia 570", &[0, 1, 5])] {
        let message = chosen(text, None).unwrap_err();
        assert!(message.contains(&format!("'{text}' matches several adapters: ")), "{message}");
        assert!(message.contains("give the number of one"), "{message}");
        for number in 0..6 {
            assert_eq!(message.contains(&format!("{number}: ")), numbers.contains(&number), "{message}");
        }
    }
    // Digits alone are a number, and no adapter has one as large: all are listed.
    let message = chosen("4090", None).unwrap_err();
    assert!(
        message.contains("has number 4090") && message.contains("5: NVIDIA RTX 4090 Laptop"),
        "{message}"
    );
}

#[test]
fn a_whole_name_wins_over_parts_of_others_but_not_over_an_equal_card() {
    assert_eq!(chosen("nvidia rtx 4090 laptop gpu", None), Ok(Some(5)));
    let message = chosen("NVIDIA RTX 4090", None).unwrap_err();
    assert!(message.contains("several adapters: 0: ") && !message.contains("5: "), "{message}");
    assert_eq!(chosen("NVIDIA RTX 4090", Some(Backend::Dx12)), Ok(Some(2)));
    assert_eq!(chosen("radv", None), Ok(Some(3)));
    assert_eq!(chosen("llvmpipe", None), Ok(Some(4)));
}

#[test]
fn a_backend_holds_for_every_selection() {
    assert_eq!(chosen("auto", None), Ok(Some(0)));
    assert_eq!(chosen("auto", Some(Backend::Dx12)), Ok(Some(2)));
    assert_eq!(chosen("gpu", Some(Backend::Dx12)), Ok(Some(2)));
    assert_eq!(chosen("2", Some(Backend::Dx12)), Ok(Some(2)));
    for (selection, words) in [
        ("auto", "no adapter is a hardware GPU over metal"),
        ("gpu", "no adapter was found over metal"),
        ("0", "no adapter has number 0 over metal"),
        ("rtx", "no adapter matches 'rtx' over metal"),
    ] {
        let message = chosen(selection, Some(Backend::Metal)).unwrap_err();
        assert!(message.contains(words) && message.contains("2: NVIDIA RTX 4090"), "{message}");
    }
}

#[test]
fn without_adapters_auto_is_the_cpu_and_the_rest_are_errors() {
    assert!(matches!(choose(&[], &Selection::Auto, None), Ok(None)));
    for selection in [Selection::Gpu, Selection::Number(0), Selection::Name("x".to_owned())] {
        let message = choose(&[], &selection, None).unwrap_err().to_string();
        assert!(message.contains("no wgpu adapter at all"), "{message}");
    }
    let software = [adapter(0, "llvmpipe", "Mesa", "vulkan", false)];
    assert!(matches!(choose(&software, &Selection::Auto, None), Ok(None)));
    assert!(choose(&software, &Selection::Auto, Some(Backend::Vulkan)).is_err());
}

#[test]
fn the_cpu_executor_has_no_backend() {
    let request = DeviceRequest {
        selection: Selection::Cpu,
        backend: Some(Backend::Vulkan),
        cooperative_matrix: false,
    };
    let message = block_on(open(&request)).err().unwrap().to_string();
    assert!(message.contains("the backend vulkan") && message.contains("the CPU executor"), "{message}");
}

/// Every adapter that is present opens by its number, and is the one that was listed.
#[test]
fn adapters_open_by_the_numbers_of_the_list() {
    let listed = block_on(adapters());
    if listed.is_empty() {
        eprintln!("SKIPPED: no wgpu adapter is present");
    }
    for (index, report) in listed.iter().enumerate() {
        assert_eq!(report.number, index);
        let request = DeviceRequest {
            selection: Selection::Number(index),
            backend: Backend::ALL
                .iter()
                .find(|(name, _)| *name == report.backend)
                .map(|(_, backend)| *backend),
            cooperative_matrix: false,
        };
        let device = block_on(open(&request)).unwrap();
        let opened = device.report().unwrap();
        assert_eq!(opened.describe(), report.describe());
        // Only DX12 has a compiler to speak of.
        assert_eq!(opened.shader_compiler.is_some(), report.backend == "dx12");
    }
}

/// Of those present, one that has the matrices opens with them, and any other says what it has instead.
#[test]
fn cooperative_matrices_open_where_the_adapter_lists_them() {
    for report in block_on(adapters()) {
        let has = report.features.contains(&("cooperative matrices", true));
        let request = DeviceRequest {
            selection: Selection::Number(report.number),
            backend: None,
            cooperative_matrix: true,
        };
        match block_on(open(&request)) {
            Ok(_) => assert!(has, "{}", report.name),
            Err(error) => {
                let message = error.to_string();
                assert!(!has && message.contains(&report.name), "{message}");
                assert!(message.contains("8x8x8") || message.contains("lanes"), "{message}");
                assert!(message.contains("do without them"), "{message}");
            }
        }
    }
}
