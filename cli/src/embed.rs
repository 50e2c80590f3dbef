//! `ocelli embed`: embeddings of sentences by a BERT.

use crate::bert_config::BertConfig;
use crate::similarity;
use crate::target::{self, Backend};
use anyhow::{Context, Result, anyhow, bail};
use ocelli::io::{Weights, write_whole};
use ocelli::models::bert::{self, Bert, Config, Padding};
use ocelli::{DType, Device, Tensor};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationParams};

/// Texts that go through the model at once: enough to fill a processor, few enough that a long one among them costs
/// little padding.
const BATCH: usize = 16;

/// Arguments of `ocelli embed`.
#[derive(clap::Args)]
pub struct Options {
    /// Folder of the model: model.safetensors, tokenizer.json and config.json.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Texts to embed.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// Where the list of {"text", "embedding"} goes; appears whole or not at all [default: standard output].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A picture of how near the texts are to each other: a PNG file.
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Backend>,
}

/// Embeds the texts and writes what came of them.
pub fn run(options: &Options) -> Result<()> {
    if options.matrix.is_some() {
        similarity::check(&options.texts)?;
    }
    let device = target::open_backend(options.device)?;
    let embedder = Embedder::open(&options.model, &device)?;
    let embeddings = embedder.embed(&options.texts)?;
    if let Some(path) = &options.matrix {
        similarity::write(path, &options.texts, &embeddings)?;
    }
    let list: Vec<_> = (options.texts.iter().zip(&embeddings))
        .map(|(text, embedding)| json!({"text": text, "embedding": embedding}))
        .collect();
    let mut text = serde_json::to_string(&list)?;
    text.push('\n');
    match &options.json {
        Some(path) => write_whole(path, text.as_bytes())?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(())
}

/// A sentence encoder: a tokenizer and a BERT.
struct Embedder {
    tokenizer: Tokenizer,
    model: Bert,
    vocabulary: usize,
    device: Device,
}

impl Embedder {
    /// Reads a model's folder.
    fn open(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("model.safetensors");
        let beside = BertConfig::beside(&path)?;
        let heads = beside.heads.with_context(|| {
            let config = folder.join("config.json");
            format!("{}: must give `num_attention_heads`", config.display())
        })?;
        let mut weights = Weights::open(&path, device, DType::F32)?;
        bert::own_names(&mut weights)?;
        let mut config = Config::of(&weights, heads);
        config.layer.epsilon = beside.epsilon.unwrap_or(config.layer.epsilon);
        let model = Bert::load(&mut weights, &config)?;
        weights.finish()?;
        Ok(Self {
            tokenizer: open_tokenizer(&folder.join("tokenizer.json"), config.positions)?,
            model,
            vocabulary: config.vocabulary,
            device: device.clone(),
        })
    }

    /// An embedding of each text. Says on standard error which texts were cut.
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let mut embeddings = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let encodings = batch.iter().map(|text| self.tokens(text));
            let encodings = encodings.collect::<Result<Vec<_>>>()?;
            embeddings.extend(self.embed_tokens(&encodings)?);
        }
        Ok(embeddings)
    }

    fn tokens(&self, text: &str) -> Result<Encoding> {
        let encoding = self.tokenizer.encode(text, true);
        let encoding = encoding.map_err(|error| anyhow!("tokenizer: {error}"))?;
        if !encoding.get_overflowing().is_empty() {
            let start: String = text.chars().take(40).collect();
            let tokens = encoding.get_ids().len();
            eprintln!(
                "note: only the first {tokens} tokens of `{start}..` count: the model takes no more"
            );
        }
        if let Some(id) = encoding
            .get_ids()
            .iter()
            .find(|&&id| id as usize >= self.vocabulary)
        {
            let vocabulary = self.vocabulary;
            bail!("tokenizer.json gives token {id}, but the model has {vocabulary}");
        }
        Ok(encoding)
    }

    fn embed_tokens(&self, encodings: &[Encoding]) -> Result<Vec<Vec<f32>>> {
        let lengths = encodings.iter().map(|encoding| encoding.get_ids().len());
        let tokens = lengths.max().unwrap_or(0);
        let shape = [encodings.len(), tokens];
        let (mut ids, mut mask) = (vec![0i32; shape[0] * tokens], vec![0i32; shape[0] * tokens]);
        for (row, encoding) in encodings.iter().enumerate() {
            for (column, &id) in encoding.get_ids().iter().enumerate() {
                // Within the vocabulary, whose rows are numbered by an i32.
                ids[row * tokens + column] = id as i32;
                mask[row * tokens + column] = 1;
            }
        }
        let ids = Tensor::from_vec(ids, &shape, &self.device)?;
        let mask = Tensor::from_vec(mask, &shape, &Device::Cpu)?;
        let padding = Padding::of(&mask, &self.device, DType::F32)?;
        let hidden = self.model.forward(&ids, None, &padding.mask())?;
        let embeddings = bert::sentence_embeddings(&hidden, &mask)?;
        let width = embeddings.shape()[1];
        let values = embeddings.to_vec::<f32>()?;
        let rows = (0..shape[0]).map(|row| values[row * width..(row + 1) * width].to_vec());
        Ok(rows.collect())
    }
}

/// Reads a tokenizer, to cut texts at the model's number of positions and pad none: batches are padded here.
fn open_tokenizer(path: &Path, positions: usize) -> Result<Tokenizer> {
    let named = |error| anyhow!("{}: {error}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(named)?;
    let around = tokenizer.get_post_processor();
    let around = around.map_or(0, |around| around.added_tokens(false));
    if positions <= around {
        bail!("the model has {positions} positions, which the {around} tokens around a text fill");
    }
    let truncation = TruncationParams {
        max_length: positions,
        ..TruncationParams::default()
    };
    tokenizer.with_padding(None);
    tokenizer.with_truncation(Some(truncation)).map_err(named)?;
    Ok(tokenizer)
}
