//! The page that plots are drawn on: axes with round ticks, marker shapes, a legend that wraps, labels that avoid each
//! other.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The colour of text and axes; the report replaces it by the page's own.
pub(super) const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);

/// The width of a plot; a phone shows it at six tenths, so that its text stays readable.
pub(super) const WIDTH: i32 = 640;

const LEFT: i32 = 72;
const RIGHT: i32 = WIDTH - 20;
const TOP: i32 = 60;
const BOTTOM: i32 = 440;
const TEXT: i32 = 17;
const LEGEND_TOP: i32 = BOTTOM + 72;
const LEGEND_ROW: i32 = 28;

/// Colours that people with any colour vision tell apart (Okabe and Ito), darkened for white and black backgrounds.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x6e, 0x77, 0x81),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x1f, 0x7f, 0xc4),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xc0, 0x5a, 0x98),
    RGBColor(0xb8, 0x86, 0x0b),
    RGBColor(0x7a, 0x5c, 0xc9),
];

/// The place of a kind of point in the lists of colours and shapes.
pub(super) type Kind = usize;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One axis: its range in plot units and the ticks with their texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

/// An entry of the legend.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    /// A marker and what it stands for.
    Marker(Kind, String),
    /// The dashed line and what it stands for.
    Dashes(String),
    /// Words alone.
    Note(String),
}

/// A rectangle that text or a marker covers: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Covered(
    pub(super) i32,
    pub(super) i32,
    pub(super) i32,
    pub(super) i32,
);

impl Covered {
    pub(super) fn marker((x, y): (i32, i32)) -> Self {
        Self(x - 9, y - 9, x + 9, y + 9)
    }

    /// What a horizontal or vertical line covers.
    pub(super) fn line(from: (i32, i32), to: (i32, i32)) -> Self {
        Self(
            from.0.min(to.0) - 1,
            from.1.min(to.1) - 1,
            from.0.max(to.0) + 1,
            from.1.max(to.1) + 1,
        )
    }

    fn meets(self, other: Self) -> bool {
        self.0 < other.2 && other.0 < self.2 && self.1 < other.3 && other.1 < self.3
    }
}

/// Draws a plot: `draw` gets the area, `subtitle` stands above it below the title and the legend at the bottom.
pub(super) fn page(
    subtitle: &str,
    entries: &[Entry],
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut rows: Vec<(i32, i32)> = Vec::new();
    let (mut x, mut y) = (LEFT - 40, LEGEND_TOP);
    for entry in entries {
        let width = legend_width(entry);
        if x + width > WIDTH && x > LEFT - 40 {
            (x, y) = (LEFT - 40, y + LEGEND_ROW);
        }
        rows.push((x, y));
        x += width;
    }
    let height = y + LEGEND_ROW;
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let under_title = (LEFT - 62, TOP - 22);
        text(
            &area,
            &shortened(subtitle, 64),
            under_title,
            HPos::Left,
            TEXT,
        )?;
        draw(&area)?;
        for (entry, &(x, y)) in entries.iter().zip(&rows) {
            match entry {
                Entry::Marker(kind, words) => {
                    marker(&area, *kind, (x + 14, y))?;
                    text(&area, words, (x + 32, y), HPos::Left, TEXT)?;
                }
                Entry::Dashes(words) => {
                    dashes(&area, &[(x, y), (x + 27, y)])?;
                    text(&area, words, (x + 32, y), HPos::Left, TEXT)?;
                }
                Entry::Note(words) => text(&area, words, (x + 5, y), HPos::Left, TEXT - 2)?,
            }
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn legend_width(entry: &Entry) -> i32 {
    match entry {
        Entry::Marker(_, words) | Entry::Dashes(words) => 46 + text_width(words, TEXT),
        Entry::Note(words) => 15 + text_width(words, TEXT - 2),
    }
}

/// Draws grid, ticks and titles of both axes; the title of the vertical one stands above it, where it can be read
/// without turning the head.
pub(super) fn axes(
    area: &Area<'_>,
    x: &Axis,
    y: &Axis,
    x_title: &str,
    y_title: &str,
) -> Result<()> {
    let grid = RGBAColor(0x80, 0x88, 0x92, 0.35).stroke_width(1);
    for (value, words) in &y.ticks {
        let row = place(x, y, x.low, *value).1;
        line(area, &[(LEFT, row), (RIGHT, row)], grid)?;
        text(area, words, (LEFT - 8, row), HPos::Right, TEXT)?;
    }
    let mut free = i32::MIN;
    for (value, words) in &x.ticks {
        let column = place(x, y, *value, y.low).0;
        line(area, &[(column, TOP), (column, BOTTOM)], grid)?;
        let half = text_width(words, TEXT) / 2;
        if column - half > free {
            let inside = column.min(WIDTH - half);
            text(area, words, (inside, BOTTOM + 16), HPos::Center, TEXT)?;
            free = column + half + 8;
        }
    }
    let ink = INK.stroke_width(1);
    line(area, &[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], ink)?;
    text(area, x_title, (RIGHT, BOTTOM + 42), HPos::Right, TEXT)?;
    text(area, y_title, (LEFT - 62, TOP - 44), HPos::Left, TEXT)
}

/// The pixel of a value; values beyond the axes lie on their edge.
pub(super) fn place(x: &Axis, y: &Axis, at_x: f64, at_y: f64) -> (i32, i32) {
    let along =
        |axis: &Axis, value: f64| ((value - axis.low) / (axis.high - axis.low)).clamp(0.0, 1.0);
    (
        LEFT + pixels(along(x, at_x) * f64::from(RIGHT - LEFT)),
        BOTTOM - pixels(along(y, at_y) * f64::from(BOTTOM - TOP)),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a fraction of the page's few hundred pixels"
)]
fn pixels(value: f64) -> i32 {
    value.round() as i32
}

/// Draws a solid line.
pub(super) fn curve(area: &Area<'_>, kind: Kind, points: &[(i32, i32)]) -> Result<()> {
    line(area, points, colour(kind).stroke_width(2))
}

/// Draws a dashed line along horizontal and vertical pieces.
pub(super) fn dashes(area: &Area<'_>, corners: &[(i32, i32)]) -> Result<()> {
    for pair in corners.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let (dx, dy) = ((x1 - x0).signum(), (y1 - y0).signum());
        let length = (x1 - x0).abs().max((y1 - y0).abs());
        let mut from = 0;
        while from < length {
            let to = (from + 6).min(length);
            let dash = [
                (x0 + dx * from, y0 + dy * from),
                (x0 + dx * to, y0 + dy * to),
            ];
            line(area, &dash, INK.mix(0.6).stroke_width(2))?;
            from += 10;
        }
    }
    Ok(())
}

/// Draws a vertical bar from `low` to `high` with its ends marked.
pub(super) fn error_bar(area: &Area<'_>, kind: Kind, x: i32, low: i32, high: i32) -> Result<()> {
    let style = colour(kind).stroke_width(2);
    line(area, &[(x, low), (x, high)], style)?;
    for y in [low, high] {
        line(area, &[(x - 5, y), (x + 5, y)], style)?;
    }
    Ok(())
}

/// Draws the marker of a kind of point; kinds differ by shape, and beyond the eighth by colour too.
pub(super) fn marker(area: &Area<'_>, kind: Kind, (x, y): (i32, i32)) -> Result<()> {
    let shape: &[(i32, i32)] = match kind % 8 {
        0 => &[
            (-3, -7),
            (3, -7),
            (7, -3),
            (7, 3),
            (3, 7),
            (-3, 7),
            (-7, 3),
            (-7, -3),
        ],
        1 => &[(-7, 6), (0, -8), (7, 6)],
        2 => &[(-6, -6), (6, -6), (6, 6), (-6, 6)],
        3 => &[(0, -9), (7, 0), (0, 9), (-7, 0)],
        4 => &[
            (0, -10),
            (3, -4),
            (9, -3),
            (4, 2),
            (6, 8),
            (0, 5),
            (-6, 8),
            (-4, 2),
            (-9, -3),
            (-3, -4),
        ],
        5 => &[(-7, -6), (0, 8), (7, -6)],
        6 => &[
            (-3, -8),
            (3, -8),
            (3, -3),
            (8, -3),
            (8, 3),
            (3, 3),
            (3, 8),
            (-3, 8),
            (-3, 3),
            (-8, 3),
            (-8, -3),
            (-3, -3),
        ],
        _ => &[(-8, -3), (8, -3), (8, 3), (-8, 3)],
    };
    let shape: Vec<_> = shape.iter().map(|&(dx, dy)| (x + dx, y + dy)).collect();
    area.draw(&Polygon::new(shape, colour(kind).filled()))
        .map_err(failed)
}

/// Writes `words` beside a marker at the first free place, shortened if that finds one; lies across `lines` only where no
/// place is free of them.
///
/// The places towards the upper left come first: there the front leaves room.
pub(super) fn label(
    area: &Area<'_>,
    words: &str,
    (x, y): (i32, i32),
    lines: &[Covered],
    covered: &mut Vec<Covered>,
) -> Result<()> {
    const PLACES: [(i32, i32, HPos); 8] = [
        (-6, -18, HPos::Right),
        (0, -20, HPos::Center),
        (-13, 0, HPos::Right),
        (6, -18, HPos::Left),
        (13, 0, HPos::Left),
        (8, 18, HPos::Left),
        (0, 20, HPos::Center),
        (-8, 18, HPos::Right),
    ];
    let size = TEXT - 2;
    let half = size / 2 + 2;
    let mut across: Option<(Covered, String, (i32, i32), HPos)> = None;
    for limit in [36, 24, 16] {
        let words = shortened(words, limit);
        let width = text_width(&words, size);
        for (dx, dy, side) in PLACES {
            let (x, y) = (x + dx, y + dy);
            let left = match side {
                HPos::Left => x,
                HPos::Center => x - width / 2,
                HPos::Right => x - width,
            };
            let cover = Covered(left, y - half, left + width, y + half);
            let inside =
                left > LEFT && left + width < RIGHT && y - half > TOP - 6 && y + half < BOTTOM;
            if !inside || covered.iter().any(|&other| cover.meets(other)) {
                continue;
            }
            if !lines.iter().any(|&line| cover.meets(line)) {
                covered.push(cover);
                return text(area, &words, (x, y), side, size);
            }
            across = across.or_else(|| Some((cover, words.clone(), (x, y), side)));
        }
    }
    let Some((cover, words, at, side)) = across else {
        return Ok(());
    };
    covered.push(cover);
    text(area, &words, at, side, size)
}

/// Writes words in the middle of an empty plot.
pub(super) fn nothing(area: &Area<'_>, words: &str) -> Result<()> {
    text(
        area,
        words,
        (WIDTH / 2, (TOP + BOTTOM) / 2),
        HPos::Center,
        TEXT,
    )
}

/// The first `limit` characters of `words`, with a mark where more follow.
pub(super) fn shortened(words: &str, limit: usize) -> String {
    if words.chars().count() <= limit {
        return words.to_owned();
    }
    let mut short: String = words.chars().take(limit - 1).collect();
    short.push('…');
    short
}

/// An axis with ticks at round values and a little room beyond `low` and `high`.
pub(super) fn linear_axis(low: f64, high: f64, words: impl Fn(f64) -> String) -> Axis {
    let room = ((high - low) * 0.06).max(0.01);
    let (low, high) = (low - room, high + room);
    let raw = (high - low) / 6.0;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= raw)
        .unwrap_or(raw);
    let mut ticks = Vec::new();
    let mut k = (low / step).ceil();
    while k * step <= high {
        ticks.push((k * step, words(k * step)));
        k += 1.0;
    }
    Axis { low, high, ticks }
}

/// An axis in decimal logarithms: ticks at 1, 2 and 5 times powers of ten, or at round values if the range is short.
pub(super) fn log_axis(low: f64, high: f64, words: impl Fn(f64) -> String) -> Axis {
    let (low, high) = (low.log10() - 0.12, high.log10() + 0.12);
    let mut ticks = Vec::new();
    for factors in [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0]] {
        if ticks.len() >= 4 {
            break;
        }
        ticks.clear();
        let mut power = low.floor();
        while power <= high {
            let marks = factors.iter().map(|factor| factor * 10_f64.powf(power));
            ticks.extend(marks.filter(|mark| (low..=high).contains(&mark.log10())));
            power += 1.0;
        }
    }
    if ticks.len() < 3 {
        let linear = linear_axis(10_f64.powf(low), 10_f64.powf(high), |_| String::new());
        ticks = linear.ticks.iter().map(|(value, _)| *value).collect();
        ticks.retain(|mark| *mark > 0.0 && (low..=high).contains(&mark.log10()));
    }
    let ticks = ticks
        .into_iter()
        .map(|mark| (mark.log10(), words(mark)))
        .collect();
    Axis { low, high, ticks }
}

fn colour(kind: Kind) -> RGBColor {
    COLOURS[kind % COLOURS.len()]
}

fn line(area: &Area<'_>, points: &[(i32, i32)], style: ShapeStyle) -> Result<()> {
    area.draw(&PathElement::new(points.to_vec(), style))
        .map_err(failed)
}

fn text(area: &Area<'_>, words: &str, at: (i32, i32), side: HPos, size: i32) -> Result<()> {
    // The SVG backend divides sizes by this number.
    let style = ("sans-serif", f64::from(size) * 1.24)
        .into_font()
        .color(&INK)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(words.to_owned(), at, style))
        .map_err(failed)
}

/// The width of `words`, a little on the wide side for the usual fonts without serifs.
fn text_width(words: &str, size: i32) -> i32 {
    let n = i32::try_from(words.chars().count()).unwrap_or(WIDTH);
    n.min(WIDTH) * size * 56 / 100
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing a plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, words)| words.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        let plain = |value: f64| format!("{value}");
        let cases = [
            (linear_axis(80.0, 92.0, plain), vec!["80", "85", "90"]),
            (
                linear_axis(90.0, 90.0, |v| format!("{v:.3}")),
                vec!["89.990", "89.995", "90.000", "90.005", "90.010"],
            ),
            (
                log_axis(20.0, 2000.0, plain),
                vec!["30", "100", "300", "1000"],
            ),
            (
                log_axis(1.0, 1e5, plain),
                vec!["1", "10", "100", "1000", "10000", "100000"],
            ),
            (log_axis(40.0, 41.0, plain), vec!["35", "40", "45", "50"]),
        ];
        for (axis, expected) in cases {
            assert_eq!(texts(&axis), expected);
        }
    }

    #[test]
    fn values_beyond_the_axes_lie_on_their_edge() {
        let axis = linear_axis(0.0, 10.0, |_| String::new());
        assert_eq!(place(&axis, &axis, -99.0, 99.0), (LEFT, TOP));
        assert_eq!(place(&axis, &axis, 99.0, -99.0), (RIGHT, BOTTOM));
        assert_eq!(
            place(&axis, &axis, 5.0, 5.0),
            ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)
        );
    }

    #[test]
    fn long_words_are_shortened_by_characters() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }

    #[test]
    fn labels_lie_across_lines_only_if_they_must() {
        let placed = |lines: &[Covered], covered: &[Covered]| {
            let mut covered = covered.to_vec();
            page("data", &[], |area| {
                label(area, "word", (300, 200), lines, &mut covered)
            })
            .unwrap();
            covered.pop().unwrap()
        };
        let free = placed(&[], &[]);
        let line = Covered::line((200, 182), (290, 182));
        assert!(free.meets(line));
        assert!(!placed(&[line], &[]).meets(line));
        // Only a short form fits between the axis and what is taken on the right.
        let mut taken = vec![Covered(LEFT + 180, 0, WIDTH, 999)];
        page("data", &[], |area| {
            label(area, &"long ".repeat(8), (LEFT + 170, 200), &[], &mut taken)
        })
        .unwrap();
        assert_eq!(taken.len(), 2);
        // Lines everywhere: the first place again.
        assert_eq!(placed(&[Covered(0, 0, WIDTH, 999)], &[]), free);
    }

    #[test]
    fn labels_avoid_each_other_and_give_up_when_all_is_full() {
        let mut covered = Vec::new();
        let svg = page("data", &[], |area| {
            for _ in 0..12 {
                label(area, "word", (300, 200), &[], &mut covered)?;
            }
            Ok(())
        })
        .unwrap();
        assert!(covered.len() > 2);
        assert_eq!(svg.matches("word").count(), covered.len());
        for (i, a) in covered.iter().enumerate() {
            assert!(covered[..i].iter().all(|&b| !a.meets(b)), "{covered:?}");
        }
    }
}
