//! A chart of numbers over steps, as SVG that needs no script: the page's style sheet gives it colour, and shows the
//! values under the pointer.
//!
//! However long a run is, a chart has a bounded number of points ([`thin`]).

use super::{compact, compact_like, escape};

/// Buckets that a series is thinned to, and hence points of a line at the most (twice as many of a [`Look::Noise`]).
const BUCKETS: usize = 600;
/// Places along the steps at which values can be read with the pointer.
const READINGS: usize = 96;
/// Marks for values that are no numbers.
const MARKS: usize = 60;
/// Values are drawn as if they were no larger, so that no difference overflows.
const LARGEST: f64 = 1e300;

/// Pixels around the plot.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;

/// One chart.
pub(super) struct Chart<'a> {
    /// What it shows, for those who do not see it.
    pub title: &'a str,
    /// Back to front.
    pub series: Vec<Series<'a>>,
    pub origin: Origin,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// Numbers of one kind.
pub(super) struct Series<'a> {
    pub label: String,
    /// Class that the style sheet gives a colour.
    pub class: &'a str,
    pub look: Look,
    /// Steps and values, steps ascending.
    pub points: &'a [(u64, f64)],
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A line through all values.
    Line,
    /// A line through means of neighbours, over the values themselves in a fainter colour.
    Noise,
    /// A line with dots at the values.
    Dots,
}

/// Where the values' axis begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// At zero: for what is compared by its height.
    Zero,
    /// Below the least value; logarithmic where values of more than two decades are all above zero.
    Least,
}

/// Neighbouring values of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    /// Step in the middle.
    x: f64,
    mean: f64,
    /// Least and greatest value, in the order in which they come.
    ends: [f64; 2],
}

/// Takes neighbours together until there are at most `buckets`. `None` is a gap: no value there is a number.
fn thin(points: &[(u64, f64)], buckets: usize) -> Vec<Option<Bucket>> {
    let count = points.len().min(buckets);
    let at = |i: usize| i * points.len() / count; // a metrics file is not so long that this overflows
    (0..count).map(|i| bucket(&points[at(i)..at(i + 1)])).collect()
}

fn bucket(points: &[(u64, f64)]) -> Option<Bucket> {
    let finite = || points.iter().map(|&(_, y)| y).filter(|y| y.is_finite()).map(bounded);
    let by_value = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let (least_at, least) = finite().enumerate().min_by(by_value)?;
    let (greatest_at, greatest) = finite().enumerate().max_by(by_value)?;
    let ends = if least_at < greatest_at { [least, greatest] } else { [greatest, least] };
    let count = finite().count() as f64;
    let (first, last) = (points.first()?.0 as f64, points.last()?.0 as f64);
    Some(Bucket { x: (first + last) / 2.0, mean: finite().map(|y| y / count).sum(), ends })
}

fn bounded(y: f64) -> f64 {
    y.clamp(-LARGEST, LARGEST)
}

/// Each bucket's mean with those of its neighbours: of the middle half of them, so that a spike leaves the line as it
/// is, and of as many on both sides, so that nothing is shifted.
fn smooth(buckets: &[Option<Bucket>]) -> Vec<Option<(f64, f64)>> {
    let half = buckets.len() / 80;
    let mean = |i: usize| {
        let bucket = buckets[i]?;
        let half = half.min(i).min(buckets.len() - 1 - i);
        let mut near: Vec<f64> = buckets[i - half..=i + half].iter().flatten().map(|b| b.mean).collect();
        near.sort_by(f64::total_cmp);
        let middle = &near[near.len() / 4..near.len() - near.len() / 4];
        Some((bucket.x, middle.iter().map(|mean| mean / middle.len() as f64).sum()))
    };
    (0..buckets.len()).map(mean).collect()
}

/// From numbers to pixels along one axis.
struct Axis {
    /// The range of values; of their logarithms to base 10 on a logarithmic axis.
    low: f64,
    high: f64,
    scale: Scale,
    /// Pixels of the two.
    from: f64,
    to: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

impl Axis {
    fn of_steps(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (low, high) = range(values);
        let high = if high > low { high } else { low + f64::max(1.0, 1e-9 * low) };
        Axis { low, high, scale: Scale::Linear, from, to }
    }

    fn of_values(values: impl Iterator<Item = f64>, origin: Origin, from: f64, to: f64) -> Axis {
        let (low, high) = range(values);
        let (mut low, mut high, scale) = match origin {
            Origin::Zero => (low.min(0.0), high.max(0.0), Scale::Linear),
            Origin::Least if low > 0.0 && high / low > 100.0 => (low.log10(), high.log10(), Scale::Log),
            Origin::Least => (low, high, Scale::Linear),
        };
        // Values that are as good as equal get a range around them.
        let largest = low.abs().max(high.abs());
        let room = match high - low {
            _ if largest == 0.0 => 1.0,
            difference if difference < 1e-6 * largest => 0.05 * largest,
            difference => 0.05 * difference,
        };
        high += room;
        if origin == Origin::Least || low < 0.0 {
            low -= room;
        }
        Axis { low, high, scale, from, to }
    }

    fn pixel(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About `most` round numbers with their labels, `least` apart at the least.
    fn ticks(&self, most: usize, least: f64) -> Vec<(f64, String)> {
        let step = round_step((self.high - self.low) / most as f64).max(least);
        match self.scale {
            Scale::Linear => {
                let largest = self.low.abs().max(self.high.abs());
                let digits = 1 + (largest / step).log10().ceil().clamp(0.0, 15.0) as usize;
                let label = |x: f64| (x, compact_like(x, digits, largest));
                multiples(self.low, self.high, step).map(label).collect()
            }
            Scale::Log => {
                let decades = multiples(self.low, self.high, step.ceil()).map(|x| 10f64.powf(x));
                let is_there = |x: &f64| *x > 0.0 && x.is_finite(); // both ends may lie beyond what a number can be
                decades.filter(is_there).map(|x| (x, compact(x, 1))).collect()
            }
        }
    }
}

/// Least and greatest; 0 to 1 where there is none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold(None, |ends, x| match ends {
        None => Some((x, x)),
        Some((low, high)) => Some((x.min(low), x.max(high))),
    });
    ends.unwrap_or((0.0, 1.0))
}

/// The least of 1, 2 and 5 times a power of ten that is not below `x`, but for what rounding has added to it.
fn round_step(x: f64) -> f64 {
    let x = x * (1.0 - 1e-9);
    let power = 10f64.powf(x.log10().floor());
    let factors = [1.0, 2.0, 5.0];
    power * factors.into_iter().find(|factor| factor * power >= x).unwrap_or(10.0)
}

fn multiples(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let count = (last - first + 1.0).clamp(0.0, 100.0) as usize;
    (0..count).map(move |i| (first + i as f64) * step)
}

impl Chart<'_> {
    /// The chart as an `svg` element.
    pub fn svg(&self) -> String {
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        let drawn: Vec<(&Series<'_>, Vec<Option<Bucket>>)> =
            self.series.iter().map(|series| (series, thin(series.points, BUCKETS))).collect();
        let buckets = || drawn.iter().flat_map(|(_, buckets)| buckets.iter().flatten());
        let steps = self.series.iter().flat_map(|series| series.points.iter().map(|&(x, _)| x as f64));
        let x_axis = Axis::of_steps(steps, LEFT, width - RIGHT);
        let y_axis = Axis::of_values(buckets().flat_map(|b| b.ends), self.origin, height - BOTTOM, TOP);

        let title = escape(self.title);
        let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n");
        svg += &grid(&x_axis, &y_axis);
        for (series, buckets) in &drawn {
            svg += &draw(series, buckets, &x_axis, &y_axis);
        }
        svg += &self.marks(&x_axis, &y_axis);
        svg += &self.readings(&x_axis, &y_axis);
        svg + "</svg>\n"
    }

    /// Where a value is no number.
    fn marks(&self, x_axis: &Axis, y_axis: &Axis) -> String {
        let all = self.series.iter().flat_map(|series| series.points);
        let steps: Vec<(u64, f64)> = all.filter(|(_, y)| !y.is_finite()).map(|&(x, _)| (x, 0.0)).collect();
        let mark = |bucket: &Bucket| {
            let (x, y) = (x_axis.pixel(bucket.x), y_axis.from);
            format!("<path class=\"nan\" d=\"M{x:.1} {y:.1}l-4 -8h8z\"/>\n")
        };
        thin(&steps, MARKS).iter().flatten().map(mark).collect()
    }

    /// Columns in which the style sheet shows a line and the values, while the pointer is there.
    fn readings(&self, x_axis: &Axis, y_axis: &Axis) -> String {
        let longest = self.series.iter().max_by_key(|series| series.points.len());
        let places: Vec<u64> = longest.map_or(Vec::new(), |series| {
            let n = series.points.len();
            let count = n.min(READINGS);
            // The middle one of each stretch; of two points, the two.
            (0..count).map(|i| series.points[(2 * i + 1) * n / (2 * count)].0).collect()
        });
        let pixels: Vec<f64> = places.iter().map(|&step| x_axis.pixel(step as f64)).collect();
        let mut svg = String::from("<g class=\"readings\" aria-hidden=\"true\">\n");
        for (i, (&step, &x)) in places.iter().zip(&pixels).enumerate() {
            let left = if i == 0 { x_axis.from } else { (pixels[i - 1] + x) / 2.0 };
            let right = pixels.get(i + 1).map_or(x_axis.to, |next| (x + next) / 2.0);
            let (top, height) = (y_axis.to, y_axis.from - y_axis.to);
            let text = escape(&self.reading(step));
            svg += &format!(
                "<g><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>\
                 <path d=\"M{x:.1} {top:.1}v{height:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\">{text}</text></g>\n",
                right - left,
                x_axis.to,
                top - 8.0,
            );
        }
        svg + "</g>\n"
    }

    /// The values at a step, or of those series which have none there the one before.
    fn reading(&self, step: u64) -> String {
        let mut text = format!("step {step}");
        for series in &self.series {
            let before = series.points.partition_point(|&(x, _)| x <= step);
            if let Some(&(_, value)) = before.checked_sub(1).and_then(|i| series.points.get(i)) {
                text += &format!(" · {} {}", series.label, compact(value, 4));
            }
        }
        text
    }
}

/// Lines at round values, and numbers along both axes.
fn grid(x_axis: &Axis, y_axis: &Axis) -> String {
    let mut svg = String::from("<g class=\"grid\">\n");
    let height = y_axis.from - y_axis.to;
    for (value, label) in y_axis.ticks((height / 38.0) as usize, 0.0) {
        let y = y_axis.pixel(value);
        svg += &format!(
            "<path d=\"M{:.1} {y:.1}H{:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>\n",
            x_axis.from,
            x_axis.to,
            x_axis.from - 8.0,
            y + 4.0,
        );
    }
    for (value, label) in x_axis.ticks(((x_axis.to - x_axis.from) / 80.0) as usize, 1.0) {
        let x = x_axis.pixel(value);
        svg += &format!("<text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>\n", y_axis.from + 18.0);
    }
    svg += &format!("<path class=\"axis\" d=\"M{:.1} {:.1}H{:.1}\"/>\n", x_axis.from, y_axis.from, x_axis.to);
    svg + "</g>\n"
}

fn draw(series: &Series<'_>, buckets: &[Option<Bucket>], x_axis: &Axis, y_axis: &Axis) -> String {
    let class = series.class;
    let at = |(x, y): (f64, f64)| (x_axis.pixel(x), y_axis.pixel(y));
    let means = || buckets.iter().map(|b| b.map(|b| at((b.x, b.mean)))).collect::<Vec<_>>();
    let path = |class: &str, points: &[Option<(f64, f64)>]| {
        format!("<path class=\"line {class}\" d=\"{}\"/>\n", path_through(points))
    };
    match series.look {
        Look::Line => path(class, &means()),
        Look::Noise => {
            let ends = |b: &Option<Bucket>| match b {
                None => vec![None],
                Some(b) if b.ends[0] == b.ends[1] => vec![Some(at((b.x, b.mean)))],
                Some(b) => b.ends.iter().map(|&y| Some(at((b.x, y)))).collect(),
            };
            let all: Vec<_> = buckets.iter().flat_map(ends).collect();
            let smooth: Vec<_> = smooth(buckets).into_iter().map(|point| point.map(at)).collect();
            path(&format!("{class} faint"), &all) + &path(class, &smooth)
        }
        Look::Dots => {
            let dot = |(x, y): (f64, f64)| {
                format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>")
            };
            // So many that they would touch hide the line.
            let room = (x_axis.to - x_axis.from) / 9.0;
            let dots: String = match buckets.len() as f64 <= room {
                true => means().into_iter().flatten().map(dot).collect(),
                false => String::new(),
            };
            path(class, &means()) + &dots + "\n"
        }
    }
}

/// A path that begins anew after a gap; a point that stands alone becomes a short stroke.
fn path_through(points: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    let mut pen_is_down = false;
    for (i, point) in points.iter().enumerate() {
        let Some((x, y)) = point else {
            pen_is_down = false;
            continue;
        };
        path += &format!("{}{x:.1} {y:.1}", if pen_is_down { "L" } else { "M" });
        let is_alone = !pen_is_down && points.get(i + 1).copied().flatten().is_none();
        if is_alone {
            path += "h.1"; // round caps make it a dot
        }
        pen_is_down = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = f64>) -> Vec<(u64, f64)> {
        values.into_iter().enumerate().map(|(i, y)| (i as u64 + 1, y)).collect()
    }

    fn svg(look: Look, origin: Origin, points: &[(u64, f64)]) -> String {
        let series = vec![Series { label: "loss".into(), class: "train", look, points }];
        Chart { title: "loss & \"more\"", series, origin, size: (500, 240) }.svg()
    }

    #[test]
    fn thinning_keeps_every_extreme_and_the_mean() {
        let all = points((0..10_007).map(|i| if i == 4321 { 1000.0 } else { f64::from(i % 100) }));
        let thinned = thin(&all, 600);
        assert_eq!(thinned.len(), 600);
        let buckets: Vec<Bucket> = thinned.into_iter().flatten().collect();
        assert_eq!(range(buckets.iter().flat_map(|b| b.ends)), (0.0, 1000.0));
        assert!(buckets.windows(2).all(|pair| pair[0].x < pair[1].x));
        assert!((buckets[0].mean - 7.5).abs() < 1e-9, "{:?}", buckets[0]); // of 0 to 15
        assert_eq!(buckets[0].ends, [0.0, 15.0]);

        // What is short stays as it is; gaps stay gaps; one value among others that are no numbers counts.
        let short = points([3.0, f64::NAN, 1.0]);
        let thinned = thin(&short, 600);
        assert_eq!(thinned[0], Some(Bucket { x: 1.0, mean: 3.0, ends: [3.0, 3.0] }));
        assert_eq!(thinned[1], None);
        assert_eq!(thin(&short, 1)[0].unwrap().ends, [3.0, 1.0]);
        assert!(thin(&[], 600).is_empty());
    }

    #[test]
    fn smoothing_shifts_nothing() {
        let straight = thin(&points((0..600).map(f64::from)), 600);
        for (bucket, point) in straight.iter().flatten().zip(smooth(&straight).into_iter().flatten()) {
            assert!((bucket.x - point.0).abs() < 1e-9 && (bucket.mean - point.1).abs() < 1e-9);
        }
        let noisy = (0..600).map(|i| if i == 300 { 1e9 } else { f64::from(i % 2) });
        let noisy = thin(&points(noisy), 600);
        assert!(smooth(&noisy)[20..580].iter().flatten().all(|(_, y)| (y - 0.5).abs() < 0.2));
    }

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |values: &[f64], origin, most| -> Vec<String> {
            let axis = Axis::of_values(values.iter().copied(), origin, 200.0, 0.0);
            axis.ticks(most, 0.0).into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(ticks(&[1.3, 10.8], Origin::Least, 6), ["2", "4", "6", "8", "10"]);
        assert_eq!(ticks(&[1e-5, 6e-4], Origin::Zero, 4), ["0", "2e-4", "4e-4", "6e-4"]);
        assert_eq!(ticks(&[11_000.0, 12_400.0], Origin::Zero, 4), ["0", "5k", "10k"]);
        assert_eq!(ticks(&[0.02, 300.0], Origin::Least, 6), ["0.1", "1", "10", "100"]);
        assert_eq!(ticks(&[2.0, 2.0], Origin::Least, 4), ["1.9", "1.95", "2", "2.05", "2.1"]);
        let odd = [0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, 5.0, 5.0 + 1e-15, f64::MIN_POSITIVE];
        for &a in &odd {
            for &b in &odd {
                for origin in [Origin::Zero, Origin::Least] {
                    let axis = Axis::of_values([a, b].into_iter(), origin, 200.0, 0.0);
                    let ticks = axis.ticks(5, 0.0);
                    assert!((1..=7).contains(&ticks.len()), "{a} {b} {origin:?}: {ticks:?}");
                    for value in [a, b] {
                        let y = axis.pixel(value);
                        assert!((-1e-6..=200.0 + 1e-6).contains(&y), "{a} {b} {origin:?}: {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_chart_is_bounded_and_has_no_odd_numbers() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, 1.0];
        let cases = [
            vec![],
            points([1.0]),
            points([f64::NAN]),
            points([f64::NAN, 2.0, f64::NAN]),
            points(odd),
            points((0..100_000).map(|i| odd[i % odd.len()])),
            vec![(0, 1.0), (u64::MAX, 2.0)],
            vec![(7, 1.0), (7, 2.0)],
        ];
        for points in cases {
            for look in [Look::Line, Look::Noise, Look::Dots] {
                for origin in [Origin::Zero, Origin::Least] {
                    let svg = svg(look, origin, &points);
                    assert!(svg.len() < 80_000, "{}", svg.len());
                    let drawing =
                        svg.replace("· loss NaN", "").replace("· loss inf", "").replace("· loss -inf", "");
                    assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{svg}");
                    assert!(svg.contains("aria-label=\"loss &amp; &quot;more&quot;\""));
                }
            }
        }
    }

    #[test]
    fn a_line_is_broken_where_a_value_is_missing() {
        let svg = svg(Look::Line, Origin::Least, &points([1.0, 2.0, f64::NAN, 3.0, f64::NAN, 1.0, 2.0]));
        let path = svg.split("class=\"line train\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 3, "{path}");
        assert_eq!(path.matches("h.1").count(), 1, "{path}");
        assert_eq!(svg.matches("class=\"nan\"").count(), 2);
    }

    #[test]
    fn the_pointer_reads_the_values_of_a_step() {
        let (train, val) = (points([5.0, 4.0, 3.0]), vec![(2, 4.5)]);
        let series =
            |label, points| Series { label: String::from(label), class: "a", look: Look::Line, points };
        let chart = Chart {
            title: "",
            series: vec![series("training", &train[..]), series("validation", &val[..])],
            origin: Origin::Least,
            size: (500, 240),
        };
        assert_eq!(chart.reading(1), "step 1 · training 5");
        assert_eq!(chart.reading(3), "step 3 · training 3 · validation 4.5");
        assert_eq!(chart.svg().matches("<rect").count(), 3);
    }
}
