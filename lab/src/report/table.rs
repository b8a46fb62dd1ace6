//! A table of texts that can be shown in a terminal, in HTML, and in Markdown.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, Width};
use maud::{Markup, html};

use super::format::NONE;
use super::page::figure;

/// Maximum width of a table in the terminal, in characters.
pub const WIDTH: u16 = 100;

/// Width up to which a column never wraps, in characters.
const WHOLE: usize = 24;

/// Length from which a cell of the report wraps, in characters.
const SENTENCE: usize = 60;

/// Spaces to the left of a cell, beside the space between two columns.
const PADDING: u16 = 1;

/// Draws lines above and below the header, and below the last row.
const STYLE: TableStyle = TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);
const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// A table of texts. The first column has names, the others usually figures.
pub struct Table {
    /// Its title.
    pub title: String,
    /// A note on how to read it.
    pub note: String,
    /// The headers of the columns.
    pub columns: Vec<&'static str>,
    /// The rows, with one cell per column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table without rows.
    pub fn new(title: String, note: &str, columns: &[&'static str]) -> Self {
        Self { title, note: note.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Removes the columns that are empty in every row.
    pub fn without_empty_columns(mut self) -> Self {
        for at in (1..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row[at].is_empty() || row[at] == NONE) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| _ = row.remove(at));
            }
        }
        self
    }

    /// Returns the table for a terminal.
    pub fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(STYLE)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH)
            .set_header(self.columns.clone())
            .add_rows(self.rows.clone());
        let last = self.columns.len() - 1;
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((PADDING, 0));
            if at > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
            // Names and figures never wrap. Sentences and the remarks in the last column may, but only
            // between words.
            let cells = self.rows.iter().map(|row| row[at].as_str());
            let words = cells.clone().flat_map(str::split_whitespace).map(|word| word.chars().count());
            let word = words.max().unwrap_or(0).min(WHOLE) as u16;
            let whole = at < last && cells.map(|cell| cell.chars().count()).max().unwrap_or(0) <= WHOLE;
            column.set_constraint(match whole {
                true => ColumnConstraint::ContentWidth,
                false => ColumnConstraint::LowerBoundary(Width::Fixed(word + PADDING)),
            });
        }
        format!("{}\n{table}\n{}\n", self.title, textwrap::fill(&self.note, usize::from(WIDTH)))
    }

    /// Returns the table as an HTML `figure`.
    pub fn html(&self) -> Markup {
        let table = html! {
            table {
                thead { tr { @for column in &self.columns { th { (column) } } } }
                tbody {
                    @for row in &self.rows {
                        tr { @for cell in row { td.sentence[cell.chars().count() > SENTENCE] { (cell) } } }
                    }
                }
            }
        };
        figure(&self.title, &table, &self.note)
    }

    /// Returns a Markdown table with the note below it.
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
