//! `cargo xtask plot`: the kernels against the roofline of the GPU, as a picture for the README.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use plotters::coord::combinators::LogCoord;
use plotters::prelude::*;

use crate::workspace::Workspace;

/// Bytes a second that a copy is assumed to reach on an H200, and operations a second of its units: bf16 and tf32 products
/// on tensor cores as assumed, f32 by the number of its multipliers.
const COPY: f64 = 4.3e12;
const PEAKS: [(&str, f64); 3] = [("bf16", 790e12), ("tf32", 395e12), ("f32", 67e12)];

/// Operations a byte, and operations a second, that the chart spans.
const INTENSITIES: std::ops::Range<f64> = 0.5..2e5;
const RATES: std::ops::Range<f64> = 1e11..3e15;
const SIZE: (u32, u32) = (1120, 860);

#[derive(clap::Args)]
pub struct Options {
    /// What the benches printed on a GPU: its times are recorded in benches/h200.csv first.
    #[arg(long, value_name = "LOG")]
    measured: Option<PathBuf>,
}

/// One kernel at one size.
#[derive(Debug, PartialEq)]
struct Case {
    name: String,
    /// The unit that bounds it, one of [`PEAKS`].
    peak: usize,
    bytes: f64,
    operations: f64,
    predicted: f64,
    /// In seconds, as the prediction.
    measured: Option<f64>,
}

impl Case {
    /// As measured, or else as predicted.
    fn seconds(&self) -> f64 {
        self.measured.unwrap_or(self.predicted)
    }

    /// Where it lies on the chart.
    fn point(&self) -> (f64, f64) {
        (
            self.operations / self.bytes,
            self.operations / self.seconds(),
        )
    }

    /// The least time in seconds that the GPU needs.
    fn roof(&self) -> f64 {
        (self.bytes / COPY).max(self.operations / PEAKS[self.peak].1)
    }
}

/// Draws `benches/h200.csv` into `assets/roofline.svg`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let path = workspace.root.join("benches/h200.csv");
    let mut text = read(&path)?;
    if let Some(log) = &options.measured {
        let printed = read(log)?;
        text = record(&text, &times(&printed)).with_context(|| log.display().to_string())?;
    }
    let cases = parse(&text).with_context(|| path.display().to_string())?;
    let picture = draw(&cases)?;
    if options.measured.is_some() {
        write(&path, &text)?;
    }
    let path = workspace.root.join("assets/roofline.svg");
    write(&path, &picture)?;
    let measured = cases.iter().filter(|case| case.measured.is_some()).count();
    let (of, path) = (cases.len(), path.display());
    println!("{path}: {of} cases, {measured} of them measured");
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut partial = path.to_owned().into_os_string();
    partial.push(".partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| path.display().to_string())
}

/// Microseconds of each case on CUDA, from the benches' lines `<case> on cuda (<name>): <time> ms, ..`.
fn times(log: &str) -> HashMap<&str, f64> {
    let time = |line| {
        let (case, rest): (&str, &str) = str::split_once(line, " on cuda (")?;
        let (_, rest) = rest.split_once("): ")?;
        let milliseconds: f64 = rest.split_once(" ms, ")?.0.parse().ok()?;
        Some((case, 1e3 * milliseconds))
    };
    log.lines().filter_map(time).collect()
}

/// The recorded cases with these times, which must have one of them at least.
fn record(text: &str, times: &HashMap<&str, f64>) -> Result<String> {
    let mut known = 0;
    let mut recorded = String::new();
    for line in text.lines() {
        let case = line
            .strip_prefix('"')
            .and_then(|rest| rest.split('"').next());
        let time = case.and_then(|case| times.get(case));
        match (line.rsplit_once(','), time) {
            (Some((rest, _)), Some(time)) => {
                known += 1;
                recorded += &format!("{rest},{time:.1}\n");
            }
            _ => recorded += &format!("{line}\n"),
        }
    }
    if known == 0 {
        bail!("holds no time of a recorded case on CUDA");
    }
    Ok(recorded)
}

fn parse(text: &str) -> Result<Vec<Case>> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let header = lines.next().unwrap_or_default();
    if header != "case,peak,bytes,operations,predicted_us,measured_us" {
        bail!("the columns are `{header}`");
    }
    lines
        .map(|line| case(line).with_context(|| format!("`{line}`")))
        .collect()
}

/// A line `"name",peak,bytes,operations,predicted,[measured]`.
fn case(line: &str) -> Result<Case> {
    let (name, numbers) = (line.strip_prefix('"'))
        .and_then(|rest| rest.split_once("\","))
        .context("must begin with a name in quotation marks")?;
    let fields: Vec<&str> = numbers.split(',').collect();
    let [peak, bytes, operations, predicted, measured] = fields[..] else {
        bail!("must have 6 columns, has {}", fields.len() + 1);
    };
    let peak = PEAKS.iter().position(|(name, _)| *name == peak);
    let number = |text: &str| -> Result<f64> {
        let value: f64 = text.parse().with_context(|| format!("`{text}`"))?;
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        bail!("`{text}` must be above 0");
    };
    let case = Case {
        name: name.to_owned(),
        peak: peak.context("the peak must be bf16, tf32 or f32")?,
        bytes: number(bytes)?,
        operations: number(operations)?,
        predicted: number(predicted)? * 1e-6,
        measured: match measured {
            "" => None,
            time => Some(number(time)? * 1e-6),
        },
    };
    let (intensity, rate) = case.point();
    if !INTENSITIES.contains(&intensity) || !RATES.contains(&rate) {
        bail!(
            "lies outside of the chart: {intensity:e} operations a byte, {rate:e} operations a second"
        );
    }
    Ok(case)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;

/// Hollow marks are predictions, filled ones were measured; a number leads to the name on the right.
fn draw(cases: &[Case]) -> Result<String> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (plot, names) = root.split_horizontally(690);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(INTENSITIES.log_scale(), RATES.log_scale())?;
        chart
            .configure_mesh()
            .x_desc("operations a byte")
            .y_desc("operations a second")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{:.1} T", y / 1e12))
            .light_line_style(WHITE)
            .draw()?;
        draw_roofs(&mut chart)?;
        draw_marks(&mut chart, cases)?;
        draw_names(&names, cases)?;
        root.present()?;
    }
    Ok(picture)
}

fn draw_roofs(chart: &mut Chart<'_, '_>) -> Result<()> {
    for (index, &(name, peak)) in PEAKS.iter().enumerate() {
        let (color, knee) = (color(index), peak / COPY);
        let start = (INTENSITIES.start, COPY * INTENSITIES.start);
        let roof = [start, (knee, peak), (INTENSITIES.end, peak)];
        chart.draw_series(LineSeries::new(roof, color.stroke_width(2)))?;
        let style = ("sans-serif", 13).into_font().color(&color);
        let label = format!("{name} {:.0} T", peak / 1e12);
        // Above its line, right of the longest products.
        let at = (INTENSITIES.end / 8.0, peak * 1.25);
        chart.draw_series([Text::new(label, at, style)])?;
    }
    Ok(())
}

fn draw_marks(chart: &mut Chart<'_, '_>, cases: &[Case]) -> Result<()> {
    for (index, case) in cases.iter().enumerate() {
        let at = case.point();
        let color = color(case.peak);
        let style = match case.measured {
            Some(_) => color.filled(),
            None => color.stroke_width(2),
        };
        chart.draw_series([Circle::new(at, 4, style)])?;
        let number = Text::new((index + 1).to_string(), (6, -12), ("sans-serif", 12));
        chart.draw_series([EmptyElement::at(at) + number])?;
    }
    Ok(())
}

fn draw_names(area: &Area<'_>, cases: &[Case]) -> Result<()> {
    const LINE: i32 = 15;
    for (index, case) in cases.iter().enumerate() {
        let percent = 100.0 * case.roof() / case.seconds();
        let line = format!("{} {}: {percent:.0} %", index + 1, case.name);
        let style = ("sans-serif", 12).into_font().color(&color(case.peak));
        area.draw(&Text::new(line, (0, LINE * (index as i32 + 1)), style))?;
    }
    let note = "% of the roof; hollow: predicted, filled: measured";
    let at = (0, LINE * (cases.len() as i32 + 2));
    area.draw(&Text::new(note, at, ("sans-serif", 12)))?;
    Ok(())
}

/// Of a unit's roof and marks.
fn color(peak: usize) -> RGBColor {
    [
        RGBColor(0, 90, 180),
        RGBColor(190, 90, 0),
        RGBColor(0, 130, 80),
    ][peak]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_cases_are_read_and_drawn() {
        let cases = parse(include_str!("../../benches/h200.csv")).unwrap();
        assert!(cases.len() > 10);
        let picture = draw(&cases).unwrap();
        for case in &cases {
            assert!(picture.contains(&case.name), "{}", case.name);
            // No kernel is expected to be faster than the roof.
            assert!(case.predicted >= case.roof(), "{case:?}");
        }
    }

    #[test]
    fn times_are_recorded_where_they_were_measured() {
        let log = "x [1] f32 on cuda (Made-up): 0.0071 ms, quartiles 1 % apart
x [1] f32 on cpu (2 threads): 7.1 ms, quartiles 1 % apart
nonsense";
        let text = "# x\ncase\n\"x [1] f32\",f32,1,1,9,\n\"y\",f32,1,1,9,4\n";
        let recorded = record(text, &times(log)).unwrap();
        let expected = "# x\ncase\n\"x [1] f32\",f32,1,1,9,7.1\n\"y\",f32,1,1,9,4\n";
        assert_eq!(recorded, expected);
        assert!(record(text, &times("nonsense")).is_err());
    }

    #[test]
    fn a_bad_line_is_named() {
        let header = "case,peak,bytes,operations,predicted_us,measured_us\n";
        for line in [
            "x,f32,1,1,1,",
            "\"x\",f8,1,1,1,",
            "\"x\",f32,0,1,1,",
            "\"x\",f32,1,1,1",
            "\"x\",f32,1,1e6,1,",
            "\"x\",f32,1e9,1e9,1e6,",
        ] {
            let error = format!("{:#}", parse(&format!("{header}{line}")).unwrap_err());
            assert!(error.contains(line), "{error}");
        }
        assert!(parse("case").is_err());
    }
}
