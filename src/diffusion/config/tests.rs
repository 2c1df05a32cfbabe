#![allow(clippy::unwrap_used)]

use super::*;

fn read(text: &str) -> Result<SchedulerConfig, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The file beside google/ddpm-cifar10-32, in content.
const CIFAR10: &str = r#"{
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": true,
    "num_train_timesteps": 1000, "trained_betas": null, "variance_type": "fixed_large"
}"#;

#[test]
fn an_empty_file_has_the_defaults() {
    assert_eq!(read("{}"), Ok(SchedulerConfig::default()));
}

#[test]
fn reads_what_others_wrote() {
    let config = read(CIFAR10).unwrap();
    let expected = SchedulerConfig {
        variance_type: VarianceType::FixedLarge,
        diffusers_version: "0.1.1".to_owned(),
        ..SchedulerConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn round_trips_with_unknown_keys() {
    let text = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "steps_offset": 1,
        "prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": false,
        "clip_sample": false, "thresholding": false, "rescale_betas_zero_snr": null,
        "a_key_of_tomorrow": {"deep": [1, 2]}}"#;
    let config = read(text).unwrap();
    assert_eq!(config.unused_keys(), ["a_key_of_tomorrow"]);
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["a_key_of_tomorrow"]["deep"][1], 2);
    assert_eq!(written["beta_schedule"], "squaredcos_cap_v2");
    assert_eq!(written.get("variance_type"), None);
    assert_eq!(serde_json::from_value::<SchedulerConfig>(written).unwrap(), config);
    assert_eq!(config.clip_limit(), f64::INFINITY);

    let ddpm = serde_json::to_value(SchedulerConfig::default()).unwrap();
    assert_eq!(ddpm["variance_type"], "fixed_small");
    assert_eq!(ddpm.get("set_alpha_to_one"), None);
}

#[test]
fn refuses_in_one_sentence_that_names_key_and_value() {
    for (text, key, value) in [
        (
            r#"{"thresholding": true, "dynamic_thresholding_ratio": 1.5}"#,
            "dynamic_thresholding_ratio",
            "from 0 to 1",
        ),
        (r#"{"thresholding": true, "sample_max_value": null}"#, "sample_max_value", "null"),
        (r#"{"rescale_betas_zero_snr": true}"#, "prediction_type", "epsilon"),
        (r#"{"rescale_betas_zero_snr": "yes"}"#, "rescale_betas_zero_snr", "yes"),
        (r#"{"variance_type": "learned"}"#, "variance_type", "learned"),
        (r#"{"variance_type": "fixed_large_log"}"#, "variance_type", "fixed_large_log"),
        (r#"{"prediction_type": "flow"}"#, "prediction_type", "flow"),
        (r#"{"beta_schedule": "laplace"}"#, "beta_schedule", "laplace"),
        (r#"{"timestep_spacing": "karras"}"#, "timestep_spacing", "karras"),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#, "_class_name", "FlowMatchEuler"),
        (r#"{"clip_sample_range": -1}"#, "clip_sample_range", "-1"),
        (r#"{"clip_sample": null}"#, "clip_sample", "null"),
        (r#"{"steps_offset": -1}"#, "steps_offset", "-1"),
        (r#"{"num_train_timesteps": "many"}"#, "num_train_timesteps", "many"),
        (r#"{"trained_betas": [0.1, 0.2]}"#, "num_train_timesteps", "1000"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps", "0"),
        (r#"{"num_train_timesteps": 123456789012345}"#, "num_train_timesteps", "123456789012345"),
        (r#"{"beta_end": 1.5}"#, "beta_end", "1."),
        (r#"{"beta_start": -0.01, "beta_schedule": "scaled_linear"}"#, "beta_start", "NaN"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 0]}"#, "trained_betas", "beta 0 "),
    ] {
        let message = read(text).unwrap_err();
        assert!(message.contains(key) && message.contains(value), "{text}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn trained_betas_take_the_place_of_the_schedule() {
    let config = read(r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 0.5]}"#).unwrap();
    assert_eq!(config.schedule().unwrap().all_alphas_cumprod(), [0.9, 0.45]);
}

#[test]
fn the_old_name_of_the_prediction_is_read() {
    for (text, expected) in [
        (r#"{"predict_epsilon": false}"#, PredictionType::Sample),
        (r#"{"predict_epsilon": true}"#, PredictionType::Epsilon),
        (r#"{"predict_epsilon": null, "prediction_type": "v_prediction"}"#, PredictionType::VPrediction),
        (r#"{"predict_epsilon": false, "prediction_type": "sample"}"#, PredictionType::Sample),
        ("{}", PredictionType::Epsilon),
    ] {
        let config = read(text).unwrap();
        assert_eq!(config.prediction_type, expected, "{text}");
        // It is written under its new name alone.
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["prediction_type"], json!(expected));
        assert_eq!(written.get("predict_epsilon"), None);
    }
    let message = read(r#"{"predict_epsilon": true, "prediction_type": "sample"}"#).unwrap_err();
    assert!(message.contains("`prediction_type`") && message.contains("`predict_epsilon`"), "{message}");
    let message = read(r#"{"predict_epsilon": "no"}"#).unwrap_err();
    assert!(message.contains("`predict_epsilon` = \"no\""), "{message}");
}

#[test]
fn a_scheduler_of_another_class_is_named_before_its_keys() {
    let text =
        r#"{"_class_name": "LMSDiscreteScheduler", "lambda_min_clipped": "-Infinity", "variance_type": "x"}"#;
    let message = read(text).unwrap_err();
    assert!(message.contains("LMSDiscreteScheduler") && message.contains("from_config"), "{message}");
}

/// Absent keys are the class's own, not `DDPMScheduler`'s; and what a class has no key for, it does not do.
#[test]
fn each_class_has_defaults_of_its_own() {
    let heun = read(r#"{"_class_name": "HeunDiscreteScheduler"}"#).unwrap();
    assert_eq!((heun.beta_start, heun.beta_end, heun.clip_sample), (0.00085, 0.012, false));
    assert_eq!(heun.timestep_spacing, TimestepSpacing::Linspace);
    let pndm = read(r#"{"_class_name": "PNDMScheduler", "clip_sample": true, "steps_offset": 1}"#).unwrap();
    assert_eq!((pndm.clip_sample, pndm.set_alpha_to_one, pndm.steps_offset), (false, false, 1));
    assert_eq!(pndm.unused_keys(), ["clip_sample"]);
    let single = r#"{"_class_name": "DPMSolverSinglestepScheduler", "timestep_spacing": "leading"}"#;
    let single = read(single).unwrap();
    assert_eq!(single.timestep_spacing, TimestepSpacing::Linspace);
    assert_eq!(single.unused_keys(), ["timestep_spacing"]);
    // The next reader finds both as they were.
    assert_eq!(serde_json::to_value(&pndm).unwrap()["clip_sample"], true);
    assert_eq!(serde_json::to_value(&single).unwrap()["timestep_spacing"], "leading");
    // A class without dynamic thresholding does none.
    let text = r#"{"_class_name": "EulerDiscreteScheduler", "thresholding": true, "sample_max_value": 0}"#;
    assert_eq!(read(text).unwrap().thresholding(), Ok(None));
}

/// Old files of other classes have the old name too.
#[test]
fn the_class_and_its_keys_choose_the_sampler() {
    for (keys, sampler, said) in [
        (r#""_class_name": "DDPMScheduler""#, "ddim", &[][..]),
        (r#""_class_name": "PNDMScheduler""#, "pndm", &[]),
        (
            r#""_class_name": "PNDMScheduler", "skip_prk_steps": true, "predict_epsilon": false"#,
            "plms",
            &["skip_prk_steps = true"],
        ),
        (
            r#""_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": "-Infinity", "variance_type": null"#,
            "dpmpp_2m",
            &[],
        ),
        (
            r#""_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": true"#,
            "dpmpp_2m_sde",
            &["algorithm_type = \"sde-dpmsolver++\"", "use_karras_sigmas = true"],
        ),
        (
            r#""_class_name": "DEISMultistepScheduler", "algorithm_type": "dpmsolver++""#,
            "deis",
            &["dpmsolver++"],
        ),
    ] {
        let config = read(&format!("{{{keys}}}")).unwrap();
        assert_eq!(config.method().unwrap().sampler, sampler, "{keys}");
        let choices = config.choices();
        assert_eq!(choices.len(), said.len(), "{keys}: {choices:?}");
        for (choice, word) in choices.iter().zip(said) {
            assert!(choice.contains(word), "{keys}: {choices:?}");
        }
        let is_old = keys.contains("predict_epsilon");
        assert_eq!(config.prediction_type == PredictionType::Sample, is_old, "{keys}");
    }
}

#[test]
fn numbers_that_json_does_not_have_are_read_where_they_mean_something() {
    let clipped = |value: &str| {
        let class = r#""_class_name": "DPMSolverSinglestepScheduler""#;
        read(&format!("{{{class}, \"lambda_min_clipped\": {value}}}"))
    };
    for value in ["-5.1", "\"-Infinity\"", "3"] {
        let config = clipped(value).unwrap();
        let lambda = config.method().unwrap().solver.lambda_min;
        assert_eq!(lambda, value.parse().unwrap_or(f64::NEG_INFINITY));
        let again = serde_json::to_value(&config).unwrap()["lambda_min_clipped"].to_string();
        assert_eq!(again.parse::<f64>().ok(), value.parse::<f64>().ok(), "{again}");
    }
    for value in ["\"NaN\"", "\"Infinity\"", "null", "[1]"] {
        let message = clipped(value).unwrap_err();
        assert!(message.contains(value) && message.contains("a number or -Infinity"), "{message}");
    }
}
