//! A picture in half-block characters: the upper half of a cell is one pixel, the lower half another.

use ddpm_gpu::output::Grid;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::widgets::Widget;

/// Draws a picture as large as the area allows, with its proportions.
pub(super) struct HalfBlocks<'a>(pub(super) &'a Grid);

impl HalfBlocks<'_> {
    /// The mean colour of a rectangle of the picture, from `start` up to `end`, \[x, y\] each.
    fn mean(&self, start: [usize; 2], end: [usize; 2]) -> Color {
        let grid = self.0;
        let mut sums = [0; 3];
        let mut count = 0;
        for y in start[1]..end[1] {
            for x in start[0]..end[0] {
                let pixel = &grid.pixels[(y * grid.width + x) * grid.channels..][..grid.channels];
                for (channel, sum) in sums.iter_mut().enumerate() {
                    *sum += u64::from(pixel[channel.min(grid.channels - 1)]);
                }
                count += 1;
            }
        }
        let [red, green, blue] = sums.map(|sum| (sum / u64::max(count, 1)) as u8);
        Color::Rgb(red, green, blue)
    }
}

impl Widget for HalfBlocks<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let grid = self.0;
        if area.is_empty() || grid.width == 0 || grid.height == 0 {
            return;
        }
        // A cell is one pixel wide and two high. The picture is never drawn larger than it is.
        let (room_x, room_y) = (usize::from(area.width), 2 * usize::from(area.height));
        let shrink = f64::max(grid.width as f64 / room_x as f64, grid.height as f64 / room_y as f64).max(1.0);
        let side = |pixels: usize, most: usize| ((pixels as f64 / shrink) as usize).clamp(1, most);
        let (width, height) = (side(grid.width, room_x), side(grid.height, room_y));
        let edge = |at: usize, side: usize, pixels: usize| at * pixels / side;
        for cell_y in 0..height.div_ceil(2) {
            for x in 0..width {
                let pixel = |y: usize| {
                    let start = [edge(x, width, grid.width), edge(y, height, grid.height)];
                    let end = [edge(x + 1, width, grid.width), edge(y + 1, height, grid.height)];
                    self.mean(start, end)
                };
                let cell = &mut buffer[(area.x + x as u16, area.y + cell_y as u16)];
                cell.set_symbol("▀").set_fg(pixel(2 * cell_y));
                if 2 * cell_y + 1 < height {
                    cell.set_bg(pixel(2 * cell_y + 1));
                }
            }
        }
    }
}
