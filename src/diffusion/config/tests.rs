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
    let text = r#"{"_class_name": "LMSDiscreteScheduler", "lambda_min_clipped": "-Infinity", "variance_type": "x"}"#;
    let message = read(text).unwrap_err();
    assert!(message.contains("LMSDiscreteScheduler") && message.contains("from_config"), "{message}");
}
