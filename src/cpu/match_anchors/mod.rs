//! Anchor matching on the CPU: row by row of cells, each against the boxes that reach it.

mod rows;

use crate::error::{Error, Result};
use crate::params::{Anchors, MatchAnchors};
use rayon::prelude::*;
use rows::{Band, Target, bands};

const OP: &str = "match_anchors";
/// Inputs of a batch of images, `M` boxes each.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `[B, M, 4]`.
    pub boxes: &'a [f32],
    /// `[B, M]`.
    pub classes: &'a [i32],
    /// `[B]`: boxes of each image that take part, clamped to `[0, M]`; none for all.
    pub counts: Option<&'a [i32]>,
    /// `B`.
    pub images: usize,
    /// `M`.
    pub boxes_per_image: usize,
}

/// Matches of a batch. See [`ops::Matches`](crate::ops::Matches).
#[derive(Debug, Clone, PartialEq)]
pub struct Matched {
    /// `[B, R]`.
    pub labels: Vec<i32>,
    /// `[B, R]`.
    pub matched: Vec<i32>,
    /// `[B]`.
    pub foreground: Vec<i32>,
}

/// The match of each anchor of each image. See [`ops::match_anchors`](crate::ops::match_anchors).
///
/// # Errors
/// When lengths do not fit each other, or a scalar is out of its range.
pub fn match_anchors(
    batch: Batch<'_>,
    anchors: &Anchors,
    params: &MatchAnchors,
) -> Result<Matched> {
    params.check()?;
    batch.check()?;
    let count = anchors.count();
    let bands = bands(anchors);
    let mut result = Matched {
        labels: vec![-1; batch.images * count],
        matched: vec![-1; batch.images * count],
        foreground: vec![0; batch.images],
    };
    for image in 0..batch.images {
        let boxes = batch.targets(image);
        if boxes.is_empty() || count == 0 {
            continue;
        }
        let row = image * count..(image + 1) * count;
        let labels = &mut result.labels[row.clone()];
        let matched = &mut result.matched[row];
        let classes = &batch.classes[image * batch.boxes_per_image..];
        result.foreground[image] = match_image(&boxes, classes, &bands, params, labels, matched);
    }
    Ok(result)
}

impl Batch<'_> {
    fn check(&self) -> Result<()> {
        let all = self.images * self.boxes_per_image;
        for (argument, len, expected) in [
            ("boxes", Some(self.boxes.len()), 4 * all),
            ("classes", Some(self.classes.len()), all),
            ("counts", self.counts.map(<[i32]>::len), self.images),
        ] {
            if len.is_some_and(|len| len != expected) {
                let rule = format!("{expected} elements");
                return Err(Error::input(OP, argument, rule, len.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// The boxes of an image that take part, with their indices.
    fn targets(&self, image: usize) -> Vec<Target> {
        let live = self.counts.map_or(self.boxes_per_image, |counts| {
            (counts[image].max(0) as usize).min(self.boxes_per_image)
        });
        let boxes: &[[f32; 4]] = bytemuck::cast_slice(self.boxes);
        let boxes = &boxes[image * self.boxes_per_image..][..live];
        let finite = |&(_, corners): &(usize, &[f32; 4])| corners.iter().all(|x| x.is_finite());
        let target = |(index, &corners): (usize, &[f32; 4])| Target {
            index: index as i32,
            area: (corners[2] - corners[0]) * (corners[3] - corners[1]),
            corners,
        };
        boxes
            .iter()
            .enumerate()
            .filter(finite)
            .map(target)
            .collect()
    }
}

/// Fills the rows of one image and returns how many anchors are matched.
fn match_image(
    boxes: &[Target],
    classes: &[i32],
    bands: &[Band<'_>],
    params: &MatchAnchors,
    labels: &mut [i32],
    matched: &mut [i32],
) -> i32 {
    let mut best = vec![0f32; labels.len()];
    matched.fill(boxes[0].index);
    let in_bands = split(bands, &mut best)
        .into_iter()
        .zip(split(bands, matched));
    let peaks: Vec<Vec<f32>> = bands
        .par_iter()
        .zip(in_bands.collect::<Vec<_>>())
        .map(|(band, (best, matched))| find_best(band, boxes, best, matched))
        .collect();
    let peaks: Vec<f32> = (0..boxes.len())
        .map(|i| peaks.iter().map(|of_band| of_band[i]).fold(0.0, f32::max))
        .collect();
    // A box that meets no anchor has its peak, 0, with every one.
    let all = params.low_quality && peaks.contains(&0.0);
    let in_bands = split(bands, labels).into_iter().zip(split(bands, matched));
    let in_bands = in_bands.zip(split(bands, &mut best)).collect::<Vec<_>>();
    bands
        .par_iter()
        .zip(in_bands)
        .map(|(band, ((labels, matched), best))| {
            labels.fill(i32::from(all));
            if params.low_quality && !all {
                restore(band, boxes, &peaks, labels);
            }
            decide(params, classes, best, labels, matched)
        })
        .sum()
}

/// The part of each band.
fn split<'a, T>(bands: &[Band<'_>], mut all: &'a mut [T]) -> Vec<&'a mut [T]> {
    let part = |band: &Band<'_>| {
        let (part, rest) = std::mem::take(&mut all).split_at_mut(band.anchors());
        all = rest;
        part
    };
    bands.iter().map(part).collect()
}

/// Notes of each anchor of a band its largest overlap and the first box that has it. Returns the largest overlap of
/// each box.
fn find_best(band: &Band<'_>, boxes: &[Target], best: &mut [f32], matched: &mut [i32]) -> Vec<f32> {
    let mut peaks = vec![0u32; boxes.len()];
    let width = band.width();
    let rows = best.chunks_mut(width).zip(matched.chunks_mut(width));
    for (y, (best, matched)) in band.rows.clone().zip(rows) {
        let row = band.row(y);
        for (target, peak) in boxes.iter().zip(&mut peaks) {
            let reach = band.reach(&row, target.corners);
            let part = row.part(reach.clone());
            *peak = (*peak).max(part.meet(target, &mut best[reach.clone()], &mut matched[reach]));
        }
    }
    peaks.into_iter().map(f32::from_bits).collect()
}

/// Sets to 1 what overlaps a box exactly as much as the best anchor does.
fn restore(band: &Band<'_>, boxes: &[Target], peaks: &[f32], flags: &mut [i32]) {
    for (y, flags) in band.rows.clone().zip(flags.chunks_mut(band.width())) {
        let row = band.row(y);
        for (target, &peak) in boxes.iter().zip(peaks) {
            let reach = band.reach(&row, target.corners);
            let part = row.part(reach.clone());
            part.mark(target, peak, &mut flags[reach]);
        }
    }
}

/// Turns flags of restored anchors into labels, and boxes of unmatched anchors into -1. Returns how many are matched.
fn decide(
    params: &MatchAnchors,
    classes: &[i32],
    best: &[f32],
    labels: &mut [i32],
    matched: &mut [i32],
) -> i32 {
    let mut count = 0;
    for ((label, matched), &best) in labels.iter_mut().zip(matched).zip(best) {
        if *label == 1 || best >= params.high_threshold {
            *label = classes[*matched as usize];
            count += 1;
        } else {
            *label = if best < params.low_threshold { -1 } else { -2 };
            *matched = -1;
        }
    }
    count
}
