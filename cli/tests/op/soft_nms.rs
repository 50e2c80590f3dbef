//! `ocelli op soft_nms`.

use crate::program::{Scratch, error_text};
use crate::{agreed, op};

#[test]
fn soft_nms_lowers_scores() {
    let scratch = Scratch::new("soft-nms");
    let input = scratch.file("in.safetensors");
    super::nms::nms_input(&input);
    for method in ["linear", "gaussian"] {
        let method = format!("method={method}");
        let settings = [
            "--set",
            &method,
            "--set",
            "inclusive=true",
            "--set",
            "max_output=3",
        ];
        let kept = agreed(&scratch, "soft_nms", &input, &settings);
        let indices = kept.tensor("indices").unwrap().to_vec::<i32>().unwrap();
        let scores = kept.tensor("scores").unwrap().to_vec::<f32>().unwrap();
        assert_eq!(indices, [1, 2, 0], "{method}");
        assert!(scores[0] == 0.9 && scores[1] == 0.7 && scores[2] < 0.4);
    }
    let run = op(
        "soft_nms",
        &input,
        &scratch.file("out"),
        &["--set", "method=hard"],
    );
    assert!(!run.status.success());
    let error = error_text(&run);
    assert!(error.contains("method=hard"), "{error}");
}
