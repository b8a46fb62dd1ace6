//! A table of texts, built once and shown in a terminal, in HTML and in Markdown.

use std::fmt::Write;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, TableStyle};

/// Widest line of a table in the terminal, in characters.
pub const WIDTH: u16 = 100;

/// Lines above and below the head and at the end.
const STYLE: TableStyle = TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);
const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// What stands where there is no figure.
pub const NONE: &str = "–";

/// A table of texts. The first column is text, the others are figures.
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// The heads of the columns.
    pub columns: Vec<&'static str>,
    /// The rows; each has a cell for each column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new(title: String, note: &str, columns: &[&'static str]) -> Self {
        Self { title, note: note.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Without the columns that say nothing in any row.
    pub fn without_empty_columns(mut self) -> Self {
        for at in (1..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row[at].is_empty() || row[at] == NONE) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| _ = row.remove(at));
            }
        }
        self
    }

    /// For a terminal.
    pub fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(STYLE)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH)
            .set_header(self.columns.clone())
            .add_rows(self.rows.clone());
        for (at, column) in table.column_iter_mut().enumerate() {
            match at {
                0 => _ = column.set_constraint(ColumnConstraint::ContentWidth), // A name stays whole.
                _ => column.set_cell_alignment(CellAlignment::Right),
            }
        }
        format!("{}\n{table}\n{}\n", self.title, wrapped(&self.note))
    }

    /// As an HTML `figure`.
    pub fn html(&self) -> String {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            cells.fold(String::new(), |row, cell| format!("{row}<{tag}>{}</{tag}>", escaped(cell)))
        };
        let head = cells("th", &mut self.columns.iter().copied());
        let body = self.rows.iter().fold(String::new(), |body, row| {
            format!("{body}<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)))
        });
        format!(
            "<figure><figcaption>{}</figcaption><div class=\"wide\"><table><thead><tr>{head}</tr></thead>\n\
             <tbody>{body}</tbody></table></div><p class=\"note\">{}</p></figure>\n",
            escaped(&self.title),
            escaped(&self.note)
        )
    }

    /// As a Markdown table and the note below it.
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            cells.fold("|".to_owned(), |line, cell| format!("{line} {} |", cell.replace('|', "\\|"))) + "\n"
        };
        let mut text = line(&mut self.columns.iter().copied());
        text += &line(&mut (0..self.columns.len()).map(|at| if at == 0 { "---" } else { "---:" }));
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text + "\n" + &self.note + "\n"
    }
}

/// Safe inside of HTML text and attributes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Nanoseconds as microseconds, with about three digits.
pub fn micros(nanoseconds: f64) -> String {
    digits(nanoseconds / 1000.0)
}

/// A figure with about three digits.
pub fn digits(value: f64) -> String {
    match value {
        _ if !value.is_finite() => NONE.into(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => grouped(value),
    }
}

/// A large figure in thousands or millions, where a column is narrow.
pub fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => digits(value / 1e6) + "M",
        value if value >= 1e4 => digits(value / 1e3) + "k",
        value => digits(value),
    }
}

/// A whole number with a space between thousands.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = &lines[lines.len() - 1];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > usize::from(WIDTH) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            let gap = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{gap}{word}");
        }
    }
    lines.join("\n")
}
