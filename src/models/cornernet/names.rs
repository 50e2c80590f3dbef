//! Names of a CornerNet's tensors in the files of others.

use crate::Result;
use crate::io::Weights;

/// Whose names a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// princeton-vl/CornerNet, which are those of this model, `module.` in front or not.
    Official,
    /// CornerNet of princeton-vl/CornerNet-Lite (not its Saccade and Squeeze, which are other networks).
    Lite,
    /// open-mmlab/mmdetection.
    MmDetection,
}

/// Brings all tensors to the names of the official code, and drops the counters of batch norms.
///
/// # Errors
/// When two tensors come to the same name.
pub fn rename(weights: &mut Weights) -> Result<Naming> {
    let begins = |prefix: &str| {
        let mut names = weights.names().map(bare);
        names.any(|name| name.starts_with(prefix))
    };
    let naming = if begins("bbox_head.") {
        Naming::MmDetection
    } else if begins("hg.") {
        Naming::Lite
    } else {
        Naming::Official
    };
    weights.rename(|name| {
        let name = bare(name);
        if name.ends_with(".num_batches_tracked") {
            return None;
        }
        Some(match naming {
            Naming::Official => name.to_string(),
            Naming::Lite => of_lite(name),
            Naming::MmDetection => of_mmdetection(name),
        })
    })?;
    Ok(naming)
}

/// Without what data-parallel training puts in front.
fn bare(name: &str) -> &str {
    name.strip_prefix("module.").unwrap_or(name)
}

/// The first prefix that fits, exchanged.
fn exchanged(name: &str, prefixes: &[(&str, &str)]) -> String {
    for (theirs, ours) in prefixes {
        if let Some(rest) = name.strip_prefix(theirs) {
            return format!("{ours}{rest}");
        }
    }
    name.to_string()
}

fn of_lite(name: &str) -> String {
    const PREFIXES: [(&str, &str); 6] = [
        ("hg.hgs.", "kps."),
        ("hg.", ""),
        ("tl_modules.", "tl_cnvs."),
        ("br_modules.", "br_cnvs."),
        ("tl_offs.", "tl_regrs."),
        ("br_offs.", "br_regrs."),
    ];
    exchanged(name, &PREFIXES)
}

fn of_mmdetection(name: &str) -> String {
    const PREFIXES: [(&str, &str); 15] = [
        // The second part of the stem is a layer of one block.
        ("backbone.stem.1.0.", "pre.1."),
        ("backbone.stem.", "pre."),
        ("backbone.hourglass_modules.", "kps."),
        ("backbone.out_convs.", "cnvs."),
        ("backbone.inters.", "inters."),
        ("backbone.conv1x1s.", "inters_."),
        ("backbone.remap_convs.", "cnvs_."),
        ("bbox_head.tl_pool.", "tl_cnvs."),
        ("bbox_head.br_pool.", "br_cnvs."),
        ("bbox_head.tl_heat.", "tl_heats."),
        ("bbox_head.br_heat.", "br_heats."),
        ("bbox_head.tl_emb.", "tl_tags."),
        ("bbox_head.br_emb.", "br_tags."),
        ("bbox_head.tl_off.", "tl_regrs."),
        ("bbox_head.br_off.", "br_regrs."),
    ];
    let name = exchanged(name, &PREFIXES);
    let parts: &[(&str, &str)] = match name.split('.').next() {
        Some("inters_" | "cnvs_") => &[(".conv.", ".0."), (".bn.", ".1.")],
        Some("tl_cnvs" | "br_cnvs") => &[
            (".direction1_conv.", ".p1_conv1."),
            (".direction2_conv.", ".p2_conv1."),
            (".aftpool_conv.conv.", ".p_conv1."),
            (".aftpool_conv.bn.", ".p_bn1."),
            (".conv1.conv.", ".conv1."),
            (".conv1.bn.", ".bn1."),
        ],
        Some("kps" | "pre" | "inters") => &[(".downsample.", ".skip.")],
        Some("cnvs") => &[],
        // The last convolution of a head is wrapped as the first one is.
        _ => &[(".1.conv.", ".1.")],
    };
    let fits = parts.iter().find(|(theirs, _)| name.contains(theirs));
    match fits {
        Some((theirs, ours)) => name.replacen(theirs, ours, 1),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lite_and_mmdetection_come_to_the_official_names() {
        for (theirs, ours) in [
            ("hg.pre.0.conv.weight", "pre.0.conv.weight"),
            ("hg.hgs.1.low2.up1.0.bn1.bias", "kps.1.low2.up1.0.bn1.bias"),
            ("hg.inters_.0.1.weight", "inters_.0.1.weight"),
            ("tl_modules.0.p_bn1.weight", "tl_cnvs.0.p_bn1.weight"),
            ("br_offs.1.0.conv.bias", "br_regrs.1.0.conv.bias"),
            ("br_tags.1.1.bias", "br_tags.1.1.bias"),
        ] {
            assert_eq!(of_lite(theirs), ours);
        }
        for (theirs, ours) in [
            ("backbone.stem.0.bn.weight", "pre.0.bn.weight"),
            (
                "backbone.stem.1.0.downsample.0.weight",
                "pre.1.skip.0.weight",
            ),
            (
                "backbone.hourglass_modules.0.low2.low1.0.downsample.1.bias",
                "kps.0.low2.low1.0.skip.1.bias",
            ),
            ("backbone.inters.0.conv2.weight", "inters.0.conv2.weight"),
            ("backbone.conv1x1s.0.conv.weight", "inters_.0.0.weight"),
            (
                "backbone.remap_convs.0.bn.running_var",
                "cnvs_.0.1.running_var",
            ),
            ("backbone.out_convs.1.conv.weight", "cnvs.1.conv.weight"),
            (
                "bbox_head.tl_pool.1.direction2_conv.bn.bias",
                "tl_cnvs.1.p2_conv1.bn.bias",
            ),
            (
                "bbox_head.br_pool.0.aftpool_conv.conv.weight",
                "br_cnvs.0.p_conv1.weight",
            ),
            (
                "bbox_head.br_pool.0.aftpool_conv.bn.weight",
                "br_cnvs.0.p_bn1.weight",
            ),
            ("bbox_head.tl_pool.0.conv1.bn.bias", "tl_cnvs.0.bn1.bias"),
            (
                "bbox_head.tl_pool.0.conv2.conv.weight",
                "tl_cnvs.0.conv2.conv.weight",
            ),
            ("bbox_head.tl_heat.1.0.conv.bias", "tl_heats.1.0.conv.bias"),
            ("bbox_head.br_emb.1.1.conv.weight", "br_tags.1.1.weight"),
        ] {
            assert_eq!(of_mmdetection(theirs), ours);
        }
    }
}
