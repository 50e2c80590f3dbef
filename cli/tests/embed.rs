//! `ocelli embed` as a user runs it, on the tiny BERT of the library's golden file and a tokenizer of letters.

mod program;

use program::{Scratch, assert_success, error_text, golden, ocelli, text, write_part};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

/// A folder with the model.
fn model(test: &str) -> Scratch {
    let scratch = Scratch::new(test);
    write_part(
        &golden("bert"),
        "weights.",
        &scratch.file("model.safetensors"),
    );
    let write = |name: &str, value: Value| {
        std::fs::write(scratch.file(name), value.to_string()).unwrap();
    };
    write(
        "config.json",
        json!({"model_type": "bert", "num_attention_heads": 4}),
    );
    write("tokenizer.json", tokenizer());
    scratch
}

/// As BERT's: 53 tokens, of which 26 are letters and 23 are letters within a word. Its own padding and truncation, which
/// are not the model's, must not count.
fn tokenizer() -> Value {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from);
    let letters = ('a'..='z').map(String::from);
    let within = ('a'..='w').map(|letter| format!("##{letter}"));
    let tokens = special.into_iter().chain(letters).chain(within);
    let vocabulary: serde_json::Map<_, _> = tokens
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    json!({
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
        },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}

fn embed(model: &Path, more: &[&str]) -> Output {
    let fixed = ["embed", "--device", "cpu", "--model", text(model)];
    ocelli(&[&fixed[..], more].concat())
}

/// The texts of a list and their embeddings.
fn parsed(list: &str) -> Vec<(String, Vec<f64>)> {
    let list: Value = serde_json::from_str(list).unwrap();
    let items = list.as_array().unwrap().iter().map(|item| {
        let embedding = item["embedding"].as_array().unwrap().iter();
        let embedding = embedding.map(|value| value.as_f64().unwrap()).collect();
        (item["text"].as_str().unwrap().to_owned(), embedding)
    });
    items.collect()
}

/// The embeddings of texts that fit, from standard output.
fn embeddings(model: &Path, texts: &[&str]) -> Vec<Vec<f64>> {
    let run = embed(model, texts);
    assert_success(&run);
    assert_eq!(error_text(&run), "");
    let list = parsed(std::str::from_utf8(&run.stdout).unwrap());
    assert!(
        list.iter()
            .map(|(text, _)| text.as_str())
            .eq(texts.iter().copied())
    );
    list.into_iter().map(|(_, embedding)| embedding).collect()
}

#[test]
fn a_batch_gives_what_each_text_gives_alone() {
    let folder = model("batch");
    let model = folder.file("");
    let texts = [
        "a",
        "hello world",
        "",
        "q w e r t y",
        "Écoute, \"toi\"\n",
        "xyz",
        "b b",
    ]
    .repeat(3);
    let together = embeddings(&model, &texts);
    for (text, embedding) in texts[..7].iter().zip(&together) {
        let norm: f64 = embedding.iter().map(|value| value * value).sum();
        assert!(
            embedding.len() == 32 && (norm - 1.0).abs() <= 1e-6,
            "{text}: {norm}"
        );
        assert_eq!(&embeddings(&model, &[*text])[0], embedding, "{text}");
    }
    assert_ne!(together[0], together[1]);
}

#[test]
fn a_list_goes_to_a_file_whole() {
    let folder = model("list");
    let (model, list) = (folder.file(""), folder.file("list.json"));
    assert_success(&embed(&model, &["hello", "--json", text(&list)]));
    let items = parsed(&std::fs::read_to_string(&list).unwrap());
    assert_eq!(items.len(), 1);
    assert_eq!(
        (items[0].0.as_str(), &items[0].1),
        ("hello", &embeddings(&model, &["hello"])[0])
    );
    let nowhere = folder.file("none").join("list.json");
    let run = embed(&model, &["hello", "--json", text(&nowhere)]);
    assert!(!run.status.success() && error_text(&run).contains("none/list.json"));
}

#[test]
fn a_long_text_is_cut_at_the_models_positions_with_a_note() {
    let folder = model("long");
    let model = folder.file("");
    // Of 24 positions two are taken by the tokens around the text.
    let (long, short) = ("a b ".repeat(12), "a b ".repeat(11));
    let run = embed(&model, &[&long]);
    assert_success(&run);
    let note = error_text(&run);
    assert!(
        note.contains("only the first 24 tokens of `a b a"),
        "{note}"
    );
    let list = parsed(std::str::from_utf8(&run.stdout).unwrap());
    assert_eq!(list[0].1, embeddings(&model, &[&short])[0]);
}

#[test]
fn a_matrix_has_a_row_and_a_column_for_each_text() {
    let folder = model("matrix");
    let drawn = |texts: &[&str], name: &str| {
        let path = folder.file(name);
        let run = embed(
            &folder.file(""),
            &[texts, &["--matrix", text(&path)]].concat(),
        );
        assert_success(&run);
        image::open(&path).unwrap().to_rgb8()
    };
    let [two, three] = [
        drawn(&["a", "b"], "2.png"),
        drawn(&["a", "b", "a"], "3.png"),
    ];
    let grown = [three.width() - two.width(), three.height() - two.height()];
    assert!(grown[0] > 0 && grown[0] == grown[1], "{grown:?}");
    // Before the margin at the end: the last text is the first one, and so the last field of the first row is dark.
    let field = grown[0];
    let last =
        |row: u32| *three.get_pixel(three.width() - field, three.height() - (3 - row) * field);
    assert!(
        last(0) == last(2) && last(1) != last(0),
        "{:?}",
        [last(0), last(1)]
    );
    let many = vec!["a"; 65];
    let nowhere = folder.file("65.png");
    // Too many texts are told before the model is looked for.
    let run = embed(
        &folder.file("no model"),
        &[&many[..], &["--matrix", text(&nowhere)]].concat(),
    );
    let error = error_text(&run);
    assert!(
        !run.status.success() && error.contains("at most 64 texts, got 65"),
        "{error}"
    );
    assert!(run.stdout.is_empty() && !nowhere.exists());
}

#[test]
fn mistakes_are_one_clear_line() {
    let folder = model("embed-mistakes");
    let fails = |message: &str| {
        let run = embed(&folder.file(""), &["hello"]);
        let error = error_text(&run);
        assert!(
            !run.status.success() && error.contains(message),
            "{message}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    let write = |name: &str, contents: &str| std::fs::write(folder.file(name), contents).unwrap();
    let large = tokenizer().to_string().replace("\"h\":11", "\"h\":53");
    write("tokenizer.json", &large);
    fails("tokenizer.json gives token 53, but the model has 53");
    write("tokenizer.json", "{}");
    fails("tokenizer.json: ");
    write("config.json", "{}");
    fails("config.json: must give `num_attention_heads`");
    write("config.json", "{\"hidden_act\": \"relu\"}");
    fails("config.json: `hidden_act` must be \"gelu\", got \"relu\"");
    write("config.json", "{\"num_attention_heads\": 5}");
    fails("5 heads do not divide the width 32");
    std::fs::remove_file(folder.file("model.safetensors")).unwrap();
    fails("model.safetensors: No such file");
}

/// On real weights, where `cargo xtask weights` has left them.
#[test]
fn the_trained_encoder_is_pytorchs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let model = root.join("target/weights/minilm");
    if !model.join("model.safetensors").is_file() {
        println!("skipped: {}: run `cargo xtask weights`", model.display());
        return;
    }
    let golden = std::fs::read_to_string(root.join("tests/golden/models/minilm.json")).unwrap();
    let golden = parsed(&golden);
    let texts: Vec<_> = golden.iter().map(|(text, _)| text.as_str()).collect();
    let run = embed(&model, &texts);
    assert_success(&run);
    assert!(error_text(&run).contains("only the first 512 tokens of `One word and another"));
    let list = parsed(std::str::from_utf8(&run.stdout).unwrap());
    assert_eq!(list.len(), golden.len());
    for ((text, expected), (_, actual)) in golden.iter().zip(&list) {
        assert_eq!(actual.len(), 384);
        for (expected, actual) in expected.iter().zip(actual) {
            // Twice what PyTorch's own f32 result is off by.
            assert!(
                (expected - actual).abs() <= 3e-7,
                "{text}: {actual} for {expected}"
            );
        }
    }
}
