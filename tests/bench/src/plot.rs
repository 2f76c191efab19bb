//! A curve as SVG: both axes logarithmic, a line for each proxy.

use std::fmt::Write;

use crate::growth::Curve;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 4] = ["#1f6feb", "#d1570b", "#2da44e", "#8250df"];

pub(crate) fn svg(curve: &Curve) -> String {
    let xs = curve.lines.iter().flat_map(|line| &line.points).map(|point| point.x);
    let ys = curve.lines.iter().flat_map(|line| &line.points).map(|point| point.y);
    let (across, up) = (Axis::over(xs, LEFT, WIDTH - RIGHT), Axis::over(ys, HEIGHT - BOTTOM, TOP));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}: CPU µs a request</text>\n",
        escaped(&curve.title)
    );
    let mut add = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    for (value, at) in across.ticks() {
        add(format!("<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/>", HEIGHT - BOTTOM));
        add(format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 18.0,
            short(value)
        ));
    }
    for (value, at) in up.ticks() {
        add(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT));
        add(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            short(value)
        ));
    }
    add(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0,
        escaped(&curve.x)
    ));
    for (line, colour) in curve.lines.iter().zip(COLOURS.iter().cycle()) {
        let places: Vec<_> =
            line.points.iter().map(|point| (across.place(point.x), up.place(point.y))).collect();
        let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        for ((x, y), point) in places.iter().zip(&line.points) {
            add(format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {:.1} µs</title></circle>",
                short(point.x),
                point.y
            ));
        }
        if let Some((x, y)) = places.last() {
            add(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                x + 8.0,
                y + 4.0,
                escaped(&line.name)
            ));
        }
    }
    out + "</svg>\n"
}

/// A logarithmic axis; what is less than one lies where one does.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 1.0_f64);
        for value in values {
            (least, most) = (least.min(value.max(1.0)), most.max(value));
        }
        let from = if least.is_finite() { least.log10().floor() } else { 0.0 };
        let to = most.log10().ceil().max(from + 1.0);
        Self { from, to, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(1.0).log10() - self.from) / (self.to - self.from);
        self.start + share * (self.end - self.start)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> {
        (self.from as i32..=self.to as i32).map(|power| {
            let value = 10_f64.powi(power);
            (value, self.place(value))
        })
    }
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value >= 1e3 {
        format!("{}k", value / 1e3)
    } else {
        format!("{value}")
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '"' => {
                // Writing to a string cannot fail.
                write!(out, "&#{};", u32::from(character)).ok();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::{Line, Point};

    #[test]
    fn every_point_lies_within_the_picture() {
        let point = |x, y| Point { x, y, p99_us: 0.0, resident_mib: 0.0, registration_ms: None };
        let points = vec![point(0.0, 0.5), point(1.0, 15.0), point(1e6, 20_000.0)];
        let line = Line { name: "a<b".into(), points };
        let curve = Curve { name: "n".into(), title: "t".into(), x: "x".into(), lines: vec![line] };
        let drawn = svg(&curve);
        let places = drawn.lines().filter_map(|line| {
            let rest = line.strip_prefix("<circle cx=\"")?;
            let (x, rest) = rest.split_once("\" cy=\"")?;
            Some((x.parse::<f64>().ok()?, rest.split('"').next()?.parse::<f64>().ok()?))
        });
        let places: Vec<_> = places.collect();
        assert_eq!(places.len(), 3);
        for (x, y) in places {
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y));
        }
        assert!(drawn.contains("a&#60;b") && drawn.ends_with("</svg>\n"));
    }
}
