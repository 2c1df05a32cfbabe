//! `train --dashboard`: the run on the whole terminal.
//!
//! A thread draws and listens to the keyboard, because a training step may take seconds. The terminal is given back
//! when the dashboard is dropped, which errors do too, and by a hook when the program panics.

mod half_blocks;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ddpm_gpu::output::Grid;
use ddpm_gpu::train::Event;
use ratatui::crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use self::half_blocks::HalfBlocks;
use super::table::{duration, mib};
use super::terminal;
use super::training::accuracy;

/// How often the keyboard is looked at and the screen drawn.
const EVERY: Duration = Duration::from_millis(200);
/// Points of the loss curve; beyond it neighbours are merged.
const MAX_POINTS: usize = 2000;
/// Lines of what happened that are kept.
const MAX_MESSAGES: usize = 4;

/// What is on the screen.
struct State {
    device: String,
    total: u64,
    step: u64,
    /// Steps done when this session started.
    first: u64,
    started: Instant,
    bytes: usize,
    /// Step and loss.
    losses: Vec<(f64, f64)>,
    /// Each point is the mean of this many readings.
    merged: usize,
    /// Readings that wait to be merged.
    waiting: Vec<(f64, f64)>,
    /// Names and values of what was measured last.
    numbers: Vec<(&'static str, String)>,
    grid: Option<Grid>,
    messages: Vec<String>,
}

impl State {
    fn new(device: String, total: u64) -> Self {
        Self {
            device,
            total,
            step: 0,
            first: 0,
            started: Instant::now(),
            bytes: 0,
            losses: Vec::new(),
            merged: 1,
            waiting: Vec::new(),
            numbers: Vec::new(),
            grid: None,
            messages: Vec::new(),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started { step, bytes, .. } => {
                (self.step, self.first, self.bytes) = (step, step, bytes);
                self.started = Instant::now();
            }
            Event::Progress { scalars, loss_scale } => {
                self.step = scalars.step;
                self.add_loss(scalars.step as f64, f64::from(scalars.loss));
                self.numbers = vec![
                    ("loss", format!("{:.5}", scalars.loss)),
                    ("images/s", format!("{:.1}", scalars.images_per_second)),
                    ("learning rate", format!("{:.3e}", scalars.learning_rate)),
                ];
                self.numbers
                    .extend(scalars.gradient_norm.map(|norm| ("gradient norm", format!("{norm:.4}"))));
                if let Some(quartiles) = scalars.loss_quartiles {
                    let each = quartiles.map(|loss| loss.map_or("-".to_owned(), |loss| format!("{loss:.4}")));
                    self.numbers.push(("by timestep", each.join(" ")));
                }
                if let Some(state) = loss_scale {
                    self.numbers
                        .push(("loss scale", format!("{}, {} skipped", state.scale, state.skipped_steps)));
                }
            }
            Event::Warning(text) => self.message(format!("warning: {text}")),
            Event::Checkpoint(path) => self.message(format!("saved {}", path.display())),
            Event::Samples { path, grid } => {
                self.message(format!("drew {}", path.display()));
                self.grid = Some(grid);
            }
            Event::Accuracy { quartiles, is_held_out } => self.message(accuracy(quartiles, is_held_out)),
        }
    }

    fn message(&mut self, text: String) {
        self.messages.push(terminal::escaped(&text).into_owned());
        if self.messages.len() > MAX_MESSAGES {
            self.messages.remove(0);
        }
    }

    /// Adds to the curve. A curve that grows long is thinned by means of neighbours, so that it keeps its whole length.
    fn add_loss(&mut self, step: f64, loss: f64) {
        if !loss.is_finite() {
            return;
        }
        self.waiting.push((step, loss));
        if self.waiting.len() >= self.merged {
            let waiting = std::mem::take(&mut self.waiting);
            self.losses.push(mean(&waiting));
        }
        if self.losses.len() > MAX_POINTS {
            self.losses = self.losses.chunks(2).map(mean).collect();
            self.merged *= 2;
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [top, middle, bottom] =
            Layout::vertical([Constraint::Length(3), Constraint::Min(6), Constraint::Length(8)])
                .areas(frame.area());
        self.draw_progress(frame, top);
        let columns = if self.grid.is_some() { [60, 40] } else { [100, 0] };
        let [curve, samples] = Layout::horizontal(columns.map(Constraint::Percentage)).areas(middle);
        self.draw_curve(frame, curve);
        if let Some(grid) = &self.grid {
            let block = Block::bordered().title(" samples ");
            let inside = block.inner(samples);
            frame.render_widget(block, samples);
            frame.render_widget(HalfBlocks(grid), inside);
        }
        let [numbers, messages] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(bottom);
        let memory = ("memory", format!("{} of buffers", mib(self.bytes)));
        let lines =
            self.numbers.iter().chain([&memory]).map(|(name, value)| format!("{name:14} {value}").into());
        frame.render_widget(
            Paragraph::new(lines.collect::<Vec<Line<'_>>>())
                .block(Block::bordered().title(format!(" {} ", self.device))),
            numbers,
        );
        let lines: Vec<Line<'_>> = self.messages.iter().map(|text| text.as_str().into()).collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(" Ctrl-C saves and stops ")),
            messages,
        );
    }

    fn draw_progress(&self, frame: &mut Frame<'_>, area: Rect) {
        let done = self.step.saturating_sub(self.first);
        let left = if done > 0 {
            let seconds = self.started.elapsed().as_secs_f64() / done as f64
                * self.total.saturating_sub(self.step) as f64;
            format!(", {} left", duration(seconds))
        } else {
            String::new()
        };
        let ratio = (self.step as f64 / self.total.max(1) as f64).clamp(0.0, 1.0);
        let label = format!("step {}/{}{left}", self.step, self.total);
        let gauge = Gauge::default()
            .block(Block::bordered().title(" ddpm-gpu train "))
            .gauge_style(Style::new().fg(Color::Blue))
            .ratio(ratio)
            .label(label);
        frame.render_widget(gauge, area);
    }

    fn draw_curve(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title(" loss ");
        let (Some(first), Some(last)) = (self.losses.first(), self.losses.last()) else {
            frame.render_widget(Paragraph::new("no loss was read yet").block(block), area);
            return;
        };
        let fold = |start: f64, pick: fn(f64, f64) -> f64| {
            self.losses.iter().map(|&(_, loss)| loss).fold(start, pick)
        };
        let (least, largest) = (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max));
        let margin = (0.05 * (largest - least)).max(1e-9);
        let (bottom, top) = ((least - margin).max(0.0), largest + margin);
        let curve = Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().yellow())
            .data(&self.losses);
        let chart = Chart::new(vec![curve])
            .block(block)
            .x_axis(
                Axis::default()
                    .bounds([first.0, last.0.max(first.0 + 1.0)])
                    .labels([format!("{:.0}", first.0), format!("{:.0}", last.0)]),
            )
            .y_axis(
                Axis::default()
                    .bounds([bottom, top])
                    .labels([bottom, (bottom + top) / 2.0, top].map(|loss| format!("{loss:.4}"))),
            );
        frame.render_widget(chart, area);
    }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (sum.0 / count, sum.1 / count)
}

/// The dashboard on the terminal.
pub(super) struct Dashboard {
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Whether there is a terminal to draw on.
pub(super) fn check_terminal() -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "--dashboard needs a terminal; without it, leave the flag out and read the lines, or metrics.jsonl"
        );
    }
    Ok(())
}

impl Dashboard {
    /// Takes the terminal over. Ctrl-C sets `stop`; a second one ends the program at once.
    pub(super) fn start(device: String, total: u64, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let terminal =
            ratatui::try_init().context("the terminal cannot be drawn on; leave --dashboard out")?;
        let state = Arc::new(Mutex::new(State::new(device, total)));
        let closing = Arc::new(AtomicBool::new(false));
        let thread = {
            let (state, closing) = (state.clone(), closing.clone());
            thread::Builder::new()
                .name("dashboard".to_owned())
                .spawn(move || run(terminal, &state, &closing, &stop))
        };
        let thread = thread.inspect_err(|_| ratatui::restore()).context("no thread for the dashboard")?;
        Ok(Self { state, closing, thread: Some(thread) })
    }

    /// Shows what happened.
    pub(super) fn show(&self, event: Event) {
        lock(&self.state).take(event);
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // it has restored the terminal by its hook if it panicked
            let _ = thread.join();
        }
        ratatui::restore();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws until the dashboard is closed.
fn run(mut terminal: DefaultTerminal, state: &Mutex<State>, closing: &AtomicBool, stop: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        // A terminal that cannot be written to, or read, is no reason to end the training.
        let _ = terminal.draw(|frame| lock(state).draw(frame));
        match event::poll(EVERY) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => {
                thread::sleep(EVERY);
                continue;
            }
        }
        // The terminal is in raw mode, in which Ctrl-C is a key like others.
        if let Ok(event::Event::Key(key)) = event::read()
            && key.kind == KeyEventKind::Press
            && key.code == KeyCode::Char('c')
            && key.modifiers.contains(KeyModifiers::CONTROL)
        {
            if stop.swap(true, Ordering::Relaxed) {
                ratatui::restore();
                std::process::exit(130);
            }
            lock(state)
                .message("finishing the step and saving; Ctrl-C again stops without saving".to_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
