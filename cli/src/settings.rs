//! `--set key=value`.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::str::FromStr;

/// The settings of one call.
#[derive(Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Parses `key=value` texts. Only these keys may occur, each once.
    pub fn parse(texts: &[String], keys: &[&str]) -> Result<Self> {
        let mut settings = BTreeMap::new();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                bail!("--set {text}: must be key=value");
            };
            if !keys.contains(&key) {
                bail!(
                    "--set {text}: unknown key `{key}`; known: {}",
                    keys.join(", ")
                );
            }
            if settings.insert(key.to_owned(), value.to_owned()).is_some() {
                bail!("--set {text}: `{key}` is set twice");
            }
        }
        Ok(Self(settings))
    }

    /// The value of `key`, or `default` where it is not set.
    pub fn get<T: FromStr>(&self, key: &str, default: T) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// The value of `key`, where it is set.
    pub fn optional<T: FromStr>(&self, key: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let parse = |value: &String| {
            value
                .parse()
                .with_context(|| format!("--set {key}={value}: not a value of its type"))
        };
        self.0.get(key).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(texts: &[&str]) -> Result<Settings> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Settings::parse(&texts, &["alpha", "topk"])
    }

    #[test]
    fn values_are_typed() {
        let settings = parse(&["alpha=0.5", "topk=7"]).unwrap();
        assert_eq!(settings.get("alpha", 0.25f32).unwrap(), 0.5);
        assert_eq!(settings.get("topk", 1usize).unwrap(), 7);
        assert_eq!(parse(&[]).unwrap().get("alpha", 0.25f32).unwrap(), 0.25);
        assert!(parse(&["topk=-1"]).unwrap().get("topk", 1usize).is_err());
        assert!(parse(&["alpha="]).unwrap().get("alpha", 1f32).is_err());
    }

    #[test]
    fn bad_settings_are_errors() {
        let error = parse(&["beta=1"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--set beta=1: unknown key `beta`; known: alpha, topk"
        );
        assert!(parse(&["alpha"]).is_err());
        assert!(parse(&["alpha=1", "alpha=2"]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", value in "\\PC{0,20}") {
            let _ = parse(&[&text]);
            if let Ok(settings) = parse(&[&format!("alpha={value}")]) {
                let _ = settings.get("alpha", 0f32);
                let _ = settings.get("alpha", 0usize);
                let _ = settings.get("alpha", false);
            }
        }
    }
}
