//! Line plots as inline SVG: no script, no font, no file beside the page.

use std::fmt::Write;

/// A plot with a logarithmic y axis.
pub(super) struct Plot<'a> {
    pub(super) title: String,
    /// Where ticks stand, from 0 to 1, and what they say.
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    /// Says a y value, as in `4.1 us`.
    pub(super) y_text: fn(f64) -> String,
    pub(super) series: Vec<Series>,
}

/// One line.
pub(super) struct Series {
    pub(super) name: String,
    /// Drawn thick and in the accent colour.
    pub(super) ours: bool,
    /// Which of the other colours, so that a transport has the same one in every plot.
    pub(super) colour: usize,
    /// x from 0 to 1, y above 0, and what the point says.
    pub(super) points: Vec<(f64, f64, String)>,
    /// Whether each point gets a dot.
    pub(super) dots: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;

/// Told apart in both colour schemes, by most eyes.
const COLOURS: [&str; 10] = [
    "#3b7dd8", "#e08a1e", "#2f9e67", "#8a63d2", "#c2554e", "#1f9fb0", "#98891f", "#b8579a",
    "#7a8088", "#3c9a9a",
];
const ACCENT: &str = "#e0245e";

impl Plot<'_> {
    /// The `<svg>` element; empty without a point.
    pub(super) fn svg(&self) -> String {
        let values = self
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(|p| p.1));
        let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), y| {
            (low.min(y), high.max(y))
        });
        if high <= 0.0 {
            return String::new();
        }
        // Whole decades, so that every tick is a power of ten.
        let (bottom, top) = (
            low.log10().floor(),
            high.log10().ceil().max(low.log10().floor() + 1.0),
        );
        let x_at = |x: f64| LEFT + x * (WIDTH - LEFT - RIGHT);
        let y_at = |y: f64| {
            HEIGHT - BOTTOM - (y.log10() - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
             <text class=\"head\" x=\"{LEFT}\" y=\"18\">{title}</text>\n",
            title = escape(&self.title)
        );
        let mut decade = bottom;
        while decade <= top {
            let value = 10_f64.powf(decade);
            let y = y_at(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                escape(&(self.y_text)(value))
            );
            decade += 1.0;
        }
        for (x, text) in &self.x_ticks {
            let x = x_at(*x);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0,
                escape(text)
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"tick\" text-anchor=\"middle\" transform=\"rotate(-90)\" x=\"{:.1}\" \
             y=\"14\">{}</text>",
            x_at(0.5),
            HEIGHT - 8.0,
            escape(self.x_name),
            -(TOP + (HEIGHT - TOP - BOTTOM) / 2.0),
            escape(self.y_name)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = if series.ours {
                ACCENT
            } else {
                COLOURS[series.colour % COLOURS.len()]
            };
            self.line(&mut out, series, colour, &x_at, &y_at);
            let y = TOP + 8.0 + index as f64 * 18.0;
            let _ = writeln!(
                out,
                "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
                 stroke-width=\"{}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT + 12.0,
                WIDTH - RIGHT + 32.0,
                if series.ours { 4 } else { 2 },
                WIDTH - RIGHT + 38.0,
                y + 4.0,
                escape(&series.name)
            );
        }
        out.push_str("</svg>\n");
        out
    }

    fn line(
        &self,
        out: &mut String,
        series: &Series,
        colour: &str,
        x_at: &impl Fn(f64) -> f64,
        y_at: &impl Fn(f64) -> f64,
    ) {
        let width = if series.ours { 3.5 } else { 1.8 };
        let points: Vec<String> = series
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x_at(p.0), y_at(p.1)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\" points=\"{}\"><title>{}</title></polyline>",
            points.join(" "),
            escape(&series.name)
        );
        if !series.dots {
            return;
        }
        for (x, y, text) in &series.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\" fill=\"{colour}\">\
                 <title>{}: {}</title></circle>",
                x_at(*x),
                y_at(*y),
                if series.ours { 5 } else { 3 },
                escape(&series.name),
                escape(text)
            );
        }
    }
}

/// Text for an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}
