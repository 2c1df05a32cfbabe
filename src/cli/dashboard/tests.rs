use std::path::PathBuf;

use ddpm_gpu::log::Scalars;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;

fn draw(state: &State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| state.draw(frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let row = |y: u16| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..area.height).map(|y| row(y) + "\n").collect()
}

fn progress(step: u64, loss: f32) -> Event {
    let scalars = Scalars {
        step,
        loss,
        loss_quartiles: Some([Some(1.5), None, Some(0.25), Some(0.125)]),
        gradient_norm: Some(3.25),
        learning_rate: 2e-4,
        images_per_second: 41.5,
    };
    Event::Progress { scalars, loss_scale: None }
}

fn running() -> State {
    let mut state = State::new("CPU executor".to_owned(), 400);
    state.take(Event::Started { step: 0, bytes: 3 << 20, trained: 1, fixed: 0 });
    for step in 1..=20 {
        state.take(progress(10 * step, 1.0 / step as f32));
    }
    state
}

#[test]
fn shows_progress_numbers_the_curve_and_what_happened() {
    let mut state = running();
    state.take(Event::Checkpoint(PathBuf::from("run/checkpoint-000200")));
    let text = text(&draw(&state, 100, 30));
    for part in [
        "step 200/400",
        "CPU executor",
        "0.05000",
        "41.5",
        "2.000e-4",
        "3.2500",
        "1.5000 - 0.2500 0.1250",
        "3.0 MiB of buffers",
        "saved run/checkpoint-000200",
        "Ctrl-C saves and stops",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // braille of the curve, which falls: high on the left, low on the right
    let rows: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let is_braille = |letter: &char| ('\u{2801}'..='\u{28ff}').contains(letter);
    let columns: Vec<(usize, usize)> = rows
        .iter()
        .enumerate()
        .flat_map(|(y, row)| {
            row.iter().enumerate().filter(|(_, letter)| is_braille(letter)).map(move |(x, _)| (x, y))
        })
        .collect();
    let (left, right) = (columns.iter().min().unwrap(), columns.iter().max().unwrap());
    assert!(right.0 > left.0 + 60 && right.1 > left.1 + 8, "{left:?} {right:?}\n{text}");
}

#[test]
fn samples_are_drawn_in_half_blocks_of_their_colours() {
    let mut state = running();
    // four pixels a quarter: red, green; blue, white
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]];
    let pixels = (0..16 * 16).flat_map(|i| colours[2 * (i / 128) + i % 16 / 8]).collect();
    let grid = Grid { width: 16, height: 16, channels: 3, pixels };
    state.take(Event::Samples { path: "run/samples/step-000200.png".into(), grid });
    let buffer = draw(&state, 100, 30);
    let cells: Vec<_> = (0..30)
        .flat_map(|y| (0..100).map(move |x| (x, y)))
        .filter(|&at| buffer[at].symbol() == "▀")
        .map(|at| (at, (buffer[at].fg, buffer[at].bg)))
        .collect();
    assert_eq!(cells.len(), 16 * 8, "two pixels a cell");
    let rgb = |[red, green, blue]: [u8; 3]| Color::Rgb(red, green, blue);
    let corner = |index: usize| cells[index].1;
    assert_eq!(corner(0), (rgb(colours[0]), rgb(colours[0])));
    assert_eq!(corner(15), (rgb(colours[1]), rgb(colours[1])));
    assert_eq!(corner(16 * 7), (rgb(colours[2]), rgb(colours[2])));
    assert_eq!(corner(16 * 8 - 1), (rgb(colours[3]), rgb(colours[3])));
    assert!(text(&buffer).contains("drew run/samples"));
}

#[test]
fn a_large_grey_grid_shrinks_by_means_and_an_odd_height_leaves_half_a_cell() {
    // 300 x 130 fits 60 cells across as 60 x 26 pixels
    let grid = Grid {
        width: 300,
        height: 130,
        channels: 1,
        pixels: (0..39_000).map(|i| (i % 2 * 200) as u8).collect(),
    };
    let mut buffer = Buffer::empty(Rect::new(0, 0, 60, 40));
    ratatui::widgets::Widget::render(HalfBlocks(&grid), buffer.area, &mut buffer);
    let drawn = buffer.content().iter().filter(|cell| cell.symbol() == "▀").count();
    assert_eq!(drawn, 60 * 13);
    let Color::Rgb(red, green, blue) = buffer[(30, 5)].fg else { unreachable!("colours are RGB") };
    assert!(red == green && green == blue && (80..=120).contains(&red), "{red}");

    let grid = Grid { width: 2, height: 3, channels: 1, pixels: vec![1, 2, 3, 4, 5, 6] };
    ratatui::widgets::Widget::render(HalfBlocks(&grid), Rect::new(0, 0, 60, 40), &mut buffer);
    assert_eq!(buffer[(1, 1)].fg, Color::Rgb(6, 6, 6));
}

#[test]
fn small_terminals_and_runs_without_a_loss_do_not_panic() {
    let empty = State::new("device".to_owned(), 0);
    assert!(text(&draw(&empty, 80, 24)).contains("no loss was read yet"));
    for (width, height) in [(1, 1), (3, 3), (20, 5), (500, 4), (4, 200)] {
        draw(&running(), width, height);
        draw(&empty, width, height);
    }
}

#[test]
fn a_long_curve_keeps_its_length_in_bounded_memory() {
    let mut state = State::new("device".to_owned(), 1);
    for step in 0..100_000 {
        state.add_loss(f64::from(step), 1.0);
    }
    state.add_loss(100_000.0, f64::NAN);
    assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&state.losses.len()), "{}", state.losses.len());
    assert!(state.losses[0].0 < 100.0 && state.losses.last().unwrap().0 > 99_000.0);
}
