//! The page that plots are drawn on: axes with round ticks, marker shapes, a legend that wraps, labels that avoid each
//! other.

use super::axis::Axis;

/// The colour of text and axes; the report replaces it by the page's own.
pub(crate) const INK: &str = "#24292F";

/// The width of a plot; a phone shows it at six tenths, so that its text stays readable.
pub(crate) const WIDTH: i32 = 640;

const LEFT: i32 = 72;
const RIGHT: i32 = WIDTH - 20;
const TOP: i32 = 60;
const BOTTOM: i32 = 440;
const TEXT: i32 = 17;
const LEGEND_TOP: i32 = BOTTOM + 72;
const LEGEND_ROW: i32 = 28;

/// Colours that people with any colour vision tell apart (Okabe and Ito), darkened for white and black backgrounds.
const COLOURS: [&str; 7] = [
    "#6E7781", "#D55E00", "#1F7FC4", "#009E73", "#C05A98", "#B8860B", "#7A5CC9",
];

/// The place of a kind of point in the lists of colours and shapes.
pub(crate) type Kind = usize;

/// What has been drawn: the elements of an SVG.
#[derive(Debug, Default)]
pub(crate) struct Area(String);

/// On which side of its place a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Normal,
    Bold,
}

/// An entry of the legend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// A marker and what it stands for.
    Marker(Kind, String),
    /// The dashed line and what it stands for.
    Dashes(String),
    /// Words alone.
    Note(String),
    /// A marker, the number that stands beside it in the plot, and what it stands for, on a row of its own.
    Row(Kind, String, String),
}

/// A rectangle that text or a marker covers: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Covered(
    pub(crate) i32,
    pub(crate) i32,
    pub(crate) i32,
    pub(crate) i32,
);

impl Covered {
    pub(crate) fn marker((x, y): (i32, i32)) -> Self {
        Self(x - 9, y - 9, x + 9, y + 9)
    }

    /// What a horizontal or vertical line covers.
    pub(crate) fn line(from: (i32, i32), to: (i32, i32)) -> Self {
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
///
/// The first element is the white background of the file.
pub(crate) fn page(subtitle: &str, entries: &[Entry], draw: impl FnOnce(&mut Area)) -> String {
    let left = LEFT - 40;
    let mut rows: Vec<(i32, i32)> = Vec::new();
    let (mut x, mut y) = (left, LEGEND_TOP);
    for entry in entries {
        let width = legend_width(entry);
        let whole_row = matches!(entry, Entry::Row(..));
        if x > left && (whole_row || x + width > WIDTH) {
            (x, y) = (left, y + LEGEND_ROW);
        }
        rows.push((x, y));
        x += if whole_row { WIDTH } else { width };
    }
    let height = y + LEGEND_ROW;
    let mut area = Area::default();
    text(
        &mut area,
        &shortened(subtitle, 64),
        (LEFT - 62, TOP - 22),
        Anchor::Start,
        TEXT,
    );
    draw(&mut area);
    for (entry, &(x, y)) in entries.iter().zip(&rows) {
        match entry {
            Entry::Marker(kind, words) => {
                marker(&mut area, *kind, (x + 14, y));
                text(&mut area, words, (x + 32, y), Anchor::Start, TEXT);
            }
            Entry::Dashes(words) => {
                dashes(&mut area, &[(x, y), (x + 27, y)]);
                text(&mut area, words, (x + 32, y), Anchor::Start, TEXT);
            }
            Entry::Note(words) => text(&mut area, words, (x + 5, y), Anchor::Start, TEXT - 2),
            Entry::Row(kind, number, words) => {
                let size = TEXT - 2;
                marker(&mut area, *kind, (x + 14, y));
                written(
                    &mut area,
                    number,
                    (x + 56, y),
                    Anchor::End,
                    size,
                    Weight::Bold,
                );
                text(&mut area, words, (x + 66, y), Anchor::Start, size);
            }
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n{}</svg>\n",
        area.0
    )
}

fn legend_width(entry: &Entry) -> i32 {
    match entry {
        Entry::Marker(_, words) | Entry::Dashes(words) => 46 + text_width(words, TEXT),
        Entry::Note(words) => 15 + text_width(words, TEXT - 2),
        Entry::Row(_, _, words) => 80 + text_width(words, TEXT - 2),
    }
}

/// Draws grid, ticks and titles of both axes; the title of the vertical one stands above it, where it can be read
/// without turning the head.
pub(crate) fn axes(area: &mut Area, x: &Axis, y: &Axis, x_title: &str, y_title: &str) {
    const GRID: &str = r##"stroke="#808892" stroke-opacity="0.35""##;
    for (value, words) in &y.ticks {
        let row = place(x, y, x.low, *value).1;
        line(area, &[(LEFT, row), (RIGHT, row)], GRID);
        text(area, words, (LEFT - 8, row), Anchor::End, TEXT);
    }
    let mut free = i32::MIN;
    for (value, words) in &x.ticks {
        let column = place(x, y, *value, y.low).0;
        line(area, &[(column, TOP), (column, BOTTOM)], GRID);
        let half = text_width(words, TEXT) / 2;
        if column - half > free {
            let inside = column.min(WIDTH - half - 6);
            text(area, words, (inside, BOTTOM + 16), Anchor::Middle, TEXT);
            free = column + half + 8;
        }
    }
    let corners = [(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)];
    line(area, &corners, &format!("stroke=\"{INK}\""));
    text(area, x_title, (RIGHT, BOTTOM + 42), Anchor::End, TEXT);
    text(area, y_title, (LEFT - 62, TOP - 44), Anchor::Start, TEXT);
}

/// The pixel of a value; values beyond the axes lie on their edge.
pub(crate) fn place(x: &Axis, y: &Axis, at_x: f64, at_y: f64) -> (i32, i32) {
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
pub(crate) fn curve(area: &mut Area, kind: Kind, points: &[(i32, i32)]) {
    line(area, points, &thick(kind));
}

/// Draws a dashed line.
pub(crate) fn dashes(area: &mut Area, corners: &[(i32, i32)]) {
    let style = format!(
        "stroke=\"{INK}\" stroke-opacity=\"0.6\" stroke-width=\"2\" stroke-dasharray=\"6 4\""
    );
    line(area, corners, &style);
}

/// Draws a vertical bar from `low` to `high` with its ends marked.
pub(crate) fn error_bar(area: &mut Area, kind: Kind, x: i32, low: i32, high: i32) {
    line(area, &[(x, low), (x, high)], &thick(kind));
    for y in [low, high] {
        line(area, &[(x - 5, y), (x + 5, y)], &thick(kind));
    }
}

/// Draws a marker that says `words` when a mouse rests on it.
pub(crate) fn point(area: &mut Area, kind: Kind, at: (i32, i32), words: &str) {
    area.0 += &format!("<g><title>{}</title>", escaped(words));
    marker(area, kind, at);
    area.0 += "</g>\n";
}

/// Draws the marker of a kind of point; kinds differ by shape, and beyond the eighth by colour too.
pub(crate) fn marker(area: &mut Area, kind: Kind, (x, y): (i32, i32)) {
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
    let (points, fill) = (coordinates(&shape), colour(kind));
    // The rim keeps markers apart that lie on each other.
    area.0 += &format!(
        "<polygon points=\"{points}\" fill=\"{fill}\" stroke=\"#FFFFFF\" stroke-width=\"1\"/>\n"
    );
}

/// Writes `words` beside a marker at the first free place and says whether there was one; bold words lie across `lines`
/// where no place is free of them.
///
/// The place above comes first, where it is plainest which point is meant, then those towards the upper left, where the
/// front leaves room.
pub(crate) fn label(
    area: &mut Area,
    words: &str,
    (x, y): (i32, i32),
    weight: Weight,
    lines: &[Covered],
    covered: &mut Vec<Covered>,
) -> bool {
    const PLACES: [(i32, i32, Anchor); 8] = [
        (0, -19, Anchor::Middle),
        (-7, -17, Anchor::End),
        (-12, 0, Anchor::End),
        (7, -17, Anchor::Start),
        (12, 0, Anchor::Start),
        (8, 17, Anchor::Start),
        (0, 19, Anchor::Middle),
        (-8, 17, Anchor::End),
    ];
    let size = TEXT - 2;
    let half = size / 2 + 1;
    let width = text_width(words, size);
    let mut across: Option<(Covered, (i32, i32), Anchor)> = None;
    for (dx, dy, anchor) in PLACES {
        let (x, y) = (x + dx, y + dy);
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - width / 2,
            Anchor::End => x - width,
        };
        let cover = Covered(left - 3, y - half, left + width + 3, y + half);
        let inside = left > LEFT && left + width < RIGHT && y - half > TOP - 6 && y + half < BOTTOM;
        if !inside || covered.iter().any(|&other| cover.meets(other)) {
            continue;
        }
        if !lines.iter().any(|&line| cover.meets(line)) {
            covered.push(cover);
            written(area, words, (x, y), anchor, size, weight);
            return true;
        }
        if weight == Weight::Bold {
            across = across.or(Some((cover, (x, y), anchor)));
        }
    }
    let Some((cover, at, anchor)) = across else {
        return false;
    };
    covered.push(cover);
    written(area, words, at, anchor, size, weight);
    true
}

/// Writes words in the middle of an empty plot.
pub(crate) fn nothing(area: &mut Area, words: &str) {
    let middle = (WIDTH / 2, (TOP + BOTTOM) / 2);
    text(area, words, middle, Anchor::Middle, TEXT);
}

/// The first `limit` characters of `words`, with a mark where more follow.
pub(crate) fn shortened(words: &str, limit: usize) -> String {
    if words.chars().count() <= limit {
        return words.to_owned();
    }
    let mut short: String = words.chars().take(limit - 1).collect();
    short.push('…');
    short
}

fn colour(kind: Kind) -> &'static str {
    COLOURS[kind % COLOURS.len()]
}

fn coordinates(points: &[(i32, i32)]) -> String {
    let pairs: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
    pairs.join(" ")
}

fn thick(kind: Kind) -> String {
    format!("stroke=\"{}\" stroke-width=\"2\"", colour(kind))
}

fn line(area: &mut Area, points: &[(i32, i32)], style: &str) {
    let points = coordinates(points);
    area.0 += &format!("<polyline points=\"{points}\" fill=\"none\" {style}/>\n");
}

fn text(area: &mut Area, words: &str, at: (i32, i32), anchor: Anchor, size: i32) {
    written(area, words, at, anchor, size, Weight::Normal);
}

/// Writes `words` with the middle of its small letters at the height of `at`.
fn written(
    area: &mut Area,
    words: &str,
    (x, y): (i32, i32),
    anchor: Anchor,
    size: i32,
    weight: Weight,
) {
    let anchor = match anchor {
        Anchor::Start => "",
        Anchor::Middle => " text-anchor=\"middle\"",
        Anchor::End => " text-anchor=\"end\"",
    };
    let weight = match weight {
        Weight::Normal => "",
        Weight::Bold => " font-weight=\"bold\"",
    };
    let (y, words) = (y + size * 7 / 20, escaped(words));
    area.0 += &format!(
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{INK}\"{anchor}{weight}>{words}</text>\n"
    );
}

fn escaped(words: &str) -> String {
    let mut safe = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            c => safe.push(c),
        }
    }
    safe
}

/// The width of `words`, a little on the wide side for the usual fonts without serifs.
fn text_width(words: &str, size: i32) -> i32 {
    let n = i32::try_from(words.chars().count()).unwrap_or(WIDTH);
    n.min(WIDTH) * size * 60 / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plots::axis::linear_axis;

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

    fn placed(weight: Weight, lines: &[Covered], covered: &mut Vec<Covered>) -> bool {
        let mut area = Area::default();
        label(&mut area, "21", (300, 200), weight, lines, covered)
    }

    #[test]
    fn labels_lie_across_lines_only_if_they_must() {
        let place = |lines: &[Covered]| {
            let mut covered = Vec::new();
            assert!(placed(Weight::Bold, lines, &mut covered));
            covered.pop().unwrap()
        };
        let free = place(&[]);
        let line = Covered::line((200, 181), (310, 181));
        assert!(free.meets(line));
        assert!(!place(&[line]).meets(line));
        // Lines everywhere: the first place again.
        let everywhere = [Covered(0, 0, WIDTH, 999)];
        assert_eq!(place(&everywhere), free);
        assert!(!placed(Weight::Normal, &everywhere, &mut Vec::new()));
    }

    #[test]
    fn labels_avoid_each_other_and_give_up_when_all_is_full() {
        let mut covered = vec![Covered::marker((300, 200))];
        let n = (0..12)
            .filter(|_| placed(Weight::Normal, &[], &mut covered))
            .count();
        assert!((3..12).contains(&n), "{n}");
        assert_eq!(covered.len(), n + 1);
        for (i, a) in covered.iter().enumerate() {
            assert!(covered[..i].iter().all(|&b| !a.meets(b)), "{covered:?}");
        }
    }

    #[test]
    fn the_legend_stays_within_the_page() {
        let entries: Vec<Entry> = (0..6)
            .map(|kind| Entry::Marker(kind, "a name of some length".to_owned()))
            .chain([Entry::Row(0, "1".to_owned(), "first".to_owned())])
            .chain([Entry::Row(0, "2".to_owned(), "second".to_owned())])
            .collect();
        let svg = page("data", &entries, |_| {});
        let row = |words: &str| {
            let element = svg
                .lines()
                .find(|line| line.ends_with(&format!(">{words}</text>")));
            let y = element.unwrap().split("y=\"").nth(1).unwrap();
            y[..y.find('"').unwrap()].parse::<i32>().unwrap()
        };
        assert_eq!(row("second"), row("first") + LEGEND_ROW);
        let height = svg.split("height=\"").nth(1).unwrap();
        let height: i32 = height[..height.find('"').unwrap()].parse().unwrap();
        assert!(row("second") < height);
    }

    #[test]
    fn words_cannot_break_the_picture() {
        let svg = page("<b>&", &[], |_| {});
        assert!(svg.contains("&lt;b&gt;&amp;") && !svg.contains("<b>"));
    }
}
