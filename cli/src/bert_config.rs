//! The `config.json` that lies beside a BERT's weights.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;

/// What the weights themselves do not say.
#[derive(Debug, Default, PartialEq)]
pub struct BertConfig {
    pub heads: Option<usize>,
    pub epsilon: Option<f32>,
}

impl BertConfig {
    /// Reads `config.json` in the folder of `weights`; nothing where there is no such file. A model that is no BERT with
    /// the exact GELU and absolute positions is an error.
    pub fn beside(weights: &Path) -> Result<Self> {
        let path = weights.with_file_name("config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Value = serde_json::from_str(text)?;
        for (key, expected) in [
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ] {
            match config.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if value == expected => {}
                Some(value) => bail!("`{key}` must be \"{expected}\", got {value}"),
            }
        }
        let heads = config.get("num_attention_heads").map(|value| {
            let heads = value.as_u64().and_then(|heads| usize::try_from(heads).ok());
            heads.with_context(|| {
                format!("`num_attention_heads` must be a whole number, got {value}")
            })
        });
        let epsilon = config.get("layer_norm_eps").map(|value| {
            let epsilon = value.as_f64().map(|epsilon| epsilon as f32);
            epsilon.with_context(|| format!("`layer_norm_eps` must be a number, got {value}"))
        });
        Ok(Self {
            heads: heads.transpose()?,
            epsilon: epsilon.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_epsilon_are_read_and_other_models_refused() {
        let text = r#"{"model_type": "bert", "num_attention_heads": 12, "layer_norm_eps": 1e-12}"#;
        let read = BertConfig::parse(text).unwrap();
        assert_eq!((read.heads, read.epsilon), (Some(12), Some(1e-12)));
        assert_eq!(BertConfig::parse("{}").unwrap(), BertConfig::default());
        for (text, message) in [
            (
                r#"{"model_type": "roberta"}"#,
                "`model_type` must be \"bert\"",
            ),
            (r#"{"hidden_act": "relu"}"#, "`hidden_act` must be"),
            (r#"{"num_attention_heads": -1}"#, "whole number, got -1"),
            (r#"{"layer_norm_eps": "x"}"#, "must be a number"),
            ("{", "EOF"),
        ] {
            let error = BertConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
