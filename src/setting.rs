//! Settings that are refused.

/// A setting, or several together, that make no sense or do not fit what they are used with.
///
/// The message calls settings by the names of their fields. Programs that offer them under other names, such as flags,
/// find the names in `names`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingError {
    /// The fields of the options or the request, with a path where a field is within another, such as `ema_warmup.power`.
    pub names: &'static [&'static str],
    /// What is wrong, and what to do.
    pub message: String,
}

impl SettingError {
    pub(crate) fn new(names: &'static [&'static str], message: impl Into<String>) -> Self {
        Self { names, message: message.into() }
    }
}
