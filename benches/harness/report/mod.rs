//! The report, three ways: tables to read, lines to process, a page to look at.

mod html;
mod json;
mod svg;
mod table;

pub use html::html;
pub use json::json_lines;
pub use table::tables;

/// `92.4 ns`, `4.12 us`, `1.30 ms`.
fn time(nanos: f64) -> String {
    match nanos {
        ..1e3 => digits(nanos, "ns"),
        ..1e6 => digits(nanos / 1e3, "us"),
        ..1e9 => digits(nanos / 1e6, "ms"),
        _ => digits(nanos / 1e9, "s"),
    }
}

/// `18.2 M/s`, `812 k/s`.
fn rate(per_second: f64) -> String {
    match per_second {
        ..1e3 => digits(per_second, "/s"),
        ..1e6 => digits(per_second / 1e3, "k/s"),
        _ => digits(per_second / 1e6, "M/s"),
    }
}

/// Three digits that matter.
fn digits(value: f64, unit: &str) -> String {
    match value {
        ..9.995 => format!("{value:.2} {unit}"),
        ..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// A ratio: `1.36`, `0.042`, `18.5`.
fn ratio(value: f64) -> String {
    match value {
        ..0.1 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(time(92.44), "92.4 ns");
        assert_eq!(time(4123.0), "4.12 us");
        assert_eq!(time(1.3e6), "1.30 ms");
        assert_eq!(rate(18_234_000.0), "18.2 M/s");
        assert_eq!(rate(812_345.0), "812 k/s");
        assert_eq!(ratio(0.0421), "0.042");
    }
}
