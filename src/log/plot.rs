//! The loss curve of a run as a picture.

use std::fmt::Display;
use std::path::Path;
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::Line;
use crate::output::{Grid, OutputError, write_atomically};

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 540);
/// Neighbours on either side that the smoothed curve takes the mean of, at most.
const MAX_REACH: usize = 50;
const PALE: RGBColor = RGBColor(176, 196, 222);
const STRONG: RGBColor = RGBColor(31, 78, 140);
/// From the quarter with the least noise to that with most.
const QUARTILES: [RGBColor; 4] =
    [RGBColor(214, 96, 77), RGBColor(230, 160, 60), RGBColor(90, 160, 90), RGBColor(130, 110, 180)];

/// A curve: its name, its points, its colour and how thick it is.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    width: u32,
}

/// Draws the loss over the steps, as it was read and smoothed, on a logarithmic scale; where the loss by timestep was
/// logged, that too. The file is an SVG if its name ends so, else a PNG.
///
/// # Errors
/// [`OutputError::Unfit`] with fewer than two losses; [`OutputError::Write`] or [`OutputError::NoFile`] if the file cannot
/// be written.
pub fn plot_loss(lines: &[Line], title: &str, path: &Path) -> Result<(), OutputError> {
    let curves = curves(lines);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    if curves.first().is_none_or(|curve| curve.points.len() < 2) {
        let found = curves.first().map_or(0, |curve| curve.points.len());
        return Err(crate::output::unfit(
            "a run in which a loss above 0 was read at least twice",
            format!("{found} of them"),
        ));
    }
    let range = |pick: fn(&(f64, f64)) -> f64| {
        points().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (steps, losses) = (range(|point| point.0), range(|point| point.1));
    let bounds = [steps.0, steps.1, losses.0 / 1.1, losses.1 * 1.1];

    static FONT: Once = Once::new();
    // A font of fixed width, because plotters leaves out the bearings of letters: others run into each other. It fails only for
    // bytes that are no font.
    FONT.call_once(|| {
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::HACK_REGULAR);
    });
    let failed = |error: &dyn Display| OutputError::Write {
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    };
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        let mut text = String::new();
        draw(SVGBackend::with_string(&mut text, SIZE), &curves, bounds, title)
            .map_err(|error| failed(&error))?;
        return write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()));
    }
    let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
    let mut pixels = vec![0; width * height * 3];
    draw(BitMapBackend::with_buffer(&mut pixels, SIZE), &curves, bounds, title)
        .map_err(|error| failed(&error))?;
    Grid { width, height, channels: 3, pixels }.write_png(path)
}

fn curves(lines: &[Line]) -> Vec<Curve> {
    let losses = |pick: &dyn Fn(&Line) -> Option<f32>| -> Vec<(f64, f64)> {
        let points = lines.iter().filter_map(|line| Some((line.step as f64, f64::from(pick(line)?))));
        // a logarithm needs more than 0
        points.filter(|&(_, loss)| loss > 0.0).collect()
    };
    let all = losses(&|line| line.loss);
    let smoothed = smooth(&all);
    let mut curves = vec![
        Curve { name: "as read".to_owned(), points: all, colour: PALE, width: 1 },
        Curve { name: "smoothed".to_owned(), points: smoothed, colour: STRONG, width: 2 },
    ];
    for (quarter, colour) in QUARTILES.into_iter().enumerate() {
        let points = smooth(&losses(&|line| line.loss_quartiles?[quarter]));
        if points.len() > 1 {
            let name = format!("timesteps, quarter {}", quarter + 1);
            curves.push(Curve { name, points, colour, width: 1 });
        }
    }
    curves
}

/// The mean of each value and its neighbours on both sides, fewer near the beginning, where the loss falls so fast that more
/// would be another loss; near the end, where neighbours are missing, a line through those that there are.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let most = MAX_REACH.min(points.len() / 20);
    let around = |(at, &(step, _)): (usize, &(f64, f64))| {
        let reach = most.min(at);
        let window = &points[at - reach..=(at + reach).min(points.len() - 1)];
        let least = window.iter().fold(f64::INFINITY, |least, &(_, loss)| least.min(loss));
        (step, line_through(window, step).max(least))
    };
    points.iter().enumerate().map(around).collect()
}

/// The value at `x` of the line of least squares through points.
fn line_through(points: &[(f64, f64)], x: f64) -> f64 {
    let mean =
        |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / points.len() as f64;
    let (mean_x, mean_y) = (mean(&|p| p.0), mean(&|p| p.1));
    let variance = mean(&|p| (p.0 - mean_x).powi(2));
    let slope = if variance > 0.0 { mean(&|p| (p.0 - mean_x) * (p.1 - mean_y)) / variance } else { 0.0 };
    mean_y + slope * (x - mean_x)
}

fn draw<B: DrawingBackend>(
    backend: B,
    curves: &[Curve],
    [left, right, bottom, top]: [f64; 4],
    title: &str,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(left..right, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(220, 220, 220))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .x_desc("steps")
        .y_desc("loss")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|loss| significant(*loss))
        .draw()?;
    for Curve { name, points, colour, width } in curves {
        let style = colour.stroke_width(*width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 15))
        .draw()?;
    area.present()
}

/// A number with two significant digits.
fn significant(value: f64) -> String {
    let decimals = (1.0 - value.abs().log10().floor()).clamp(0.0, 8.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(count: u64, quartiles: bool) -> Vec<Line> {
        (1..=count)
            .map(|i| {
                let loss = 1.0 / i as f32 + 0.02 * (i as f32 * 1.7).sin().abs();
                Line {
                    step: 10 * i,
                    loss: Some(loss),
                    loss_quartiles: quartiles.then_some([
                        Some(2.0 * loss),
                        Some(loss),
                        None,
                        Some(0.3 * loss),
                    ]),
                    ..Line::default()
                }
            })
            .collect()
    }

    /// Pixels of a colour, \[x, y\].
    fn coloured(path: &Path, colour: RGBColor) -> Vec<[usize; 2]> {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let is_it = |pixel: &[u8]| pixel == [colour.0, colour.1, colour.2];
        let width = SIZE.0 as usize;
        pixels
            .chunks_exact(3)
            .enumerate()
            .filter(|(_, pixel)| is_it(pixel))
            .map(|(i, _)| [i % width, i / width])
            .collect()
    }

    #[test]
    fn a_falling_loss_is_a_falling_curve() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.png");
        plot_loss(&lines(300, false), "a run", &path).unwrap();
        // the plot's left half, where no legend is
        let curve: Vec<_> = coloured(&path, STRONG).into_iter().filter(|[x, _]| *x < 480).collect();
        let (first, last) = (curve.iter().min().unwrap(), curve.iter().max().unwrap());
        assert!(last[0] > first[0] + 300 && last[1] > first[1] + 200, "{first:?} {last:?}");
        assert!(coloured(&path, QUARTILES[0]).is_empty());
        plot_loss(&lines(300, true), "a run", &path).unwrap();
        assert!(!coloured(&path, QUARTILES[0]).is_empty() && coloured(&path, QUARTILES[2]).is_empty());
    }

    #[test]
    fn svg_has_the_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        plot_loss(&lines(30, true), "a run", &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["<svg", "a run", "steps", "loss", "smoothed", "timesteps, quarter 4"] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn smoothing_keeps_lines_and_ends_and_calms_noise() {
        let line: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), 500.0 - f64::from(i))).collect();
        for (found, expected) in smooth(&line).iter().zip(&line) {
            assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-9, "{found:?} {expected:?}");
        }
        let noise: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smooth(&noise)[50..350].iter().all(|(_, loss)| (loss - 0.5).abs() < 0.02));
        assert!(smooth(&noise)[350..].iter().all(|(_, loss)| (loss - 0.5).abs() < 0.1));
        assert_eq!(smooth(&line[..3]), line[..3]);
    }

    #[test]
    fn a_run_with_no_losses_is_no_plot() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1] {
            let error =
                plot_loss(&lines(count, false), "a run", &folder.path().join("loss.png")).unwrap_err();
            assert!(error.to_string().contains("at least twice"), "{error}");
        }
    }

    #[test]
    fn labels_have_two_significant_digits() {
        assert_eq!([1.234, 0.0512, 12.3, 0.00034].map(significant), ["1.2", "0.051", "12", "0.00034"]);
    }
}
