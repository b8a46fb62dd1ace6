//! Makes text from outside safe to print, and checks names.
//!
//! A terminal obeys the control characters that it receives. If a station is called
//! `\x1b[2J`, listing the stations clears your screen, and a carriage return lets one line of
//! a log overwrite another. So our programs never print text from the other side unchanged.

use std::borrow::Cow;
use std::fmt::Write;

use precis_profiles::Nickname;
use precis_profiles::precis_core::profile::Profile;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_script::Script;
use unicode_security::confusable_detection::skeleton;
use unicode_security::mixed_script::AugmentedScriptSet;

/// Returns `text` on one line, with each character that a terminal would obey or
/// hide replaced by its JSON escape, such as `\u001b` or `\n`.
///
/// These are line breaks and other control characters, characters that change the
/// direction of the text, other invisible ones, and those to which Unicode gives no
/// meaning (private use and unassigned). A line of JSON stays valid, because the escapes are
/// those of JSON.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(shown, "\\u{unit:04x}"); // Writing to a string can't fail.
                }
            }
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Returns whether [`printable`] escapes the character.
pub(super) fn is_unsafe(c: char) -> bool {
    match c {
        ' '..='~' => false,
        // Joiners are invisible too, but Persian, Hindi, and emoji need them.
        '\u{200c}' | '\u{200d}' => false,
        // Fillers are letters or symbols by category, but blank on the screen.
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => true,
        c => matches!(
            c.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::PrivateUse
                | GeneralCategory::Unassigned
        ),
    }
}

/// Checks a name that people will see, such as a station's.
///
/// Two standards decide which characters it may contain:
///
/// - RFC 8266 (nicknames, a profile of PRECIS, RFC 8264) allows letters of all
///   scripts with their marks, digits, punctuation, and symbols. It excludes control
///   characters and invisible ones. A name has no space at its start or end, no two
///   spaces in a row, and no kind of space except the plain one.
/// - Unicode Technical Standard 39 (section 5.2, "moderately restrictive") excludes
///   mixtures of scripts that look alike, such as a Cyrillic `О` in `Оslo`.
///
/// Letters that are only variants of ASCII letters or digits, such as `𝐎` (mathematical
/// bold), are excluded too.
///
/// # Errors
/// The error says what is wrong, in words that can follow the name and a colon.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if Nickname::new().prepare(name).is_err() {
        return Err("it contains a control character or an invisible one, or is empty");
    }
    let spaces_are_plain = !name.chars().any(|c| c != ' ' && c.is_whitespace());
    if !spaces_are_plain || name.starts_with(' ') || name.ends_with(' ') || name.contains("  ") {
        return Err("use single spaces, and none at the start or end");
    }
    if name.chars().any(is_variant_of_ascii) {
        return Err("use plain letters instead of their variants");
    }
    if mixes_scripts(name) {
        return Err("it mixes letters of scripts that look alike");
    }
    Ok(())
}

/// Returns a key that is the same for two names that people could confuse: the
/// "skeleton" of Unicode Technical Standard 39, section 4, ignoring case. Don't let two
/// people use names with the same key at the same time.
pub fn lookalike_key(name: &str) -> String {
    let lower: String = skeleton(&name.to_lowercase()).collect();
    // The skeleton of `0` is a capital `O`, hence the second lowercasing. A capital `I` looks
    // like `l`, but the first lowercasing has made it an `i`, so each `i` becomes an `l`.
    lower.to_lowercase().replace('i', "l")
}

fn is_variant_of_ascii(c: char) -> bool {
    !c.is_ascii() && c.is_alphabetic() && std::iter::once(c).nfkc().all(|c| c.is_ascii_alphanumeric())
}

/// Returns whether the name mixes scripts in a way that the "moderately restrictive" level
/// of Unicode Technical Standard 39 (section 5.2) does not allow.
fn mixes_scripts(name: &str) -> bool {
    let (mut all, mut except_latin) = (AugmentedScriptSet::default(), AugmentedScriptSet::default());
    for c in name.chars() {
        let scripts = AugmentedScriptSet::from(c);
        all.intersect_with(scripts);
        if !scripts.base.contains_script(Script::Latin) {
            except_latin.intersect_with(scripts);
        }
    }
    let with_latin = except_latin.hanb || except_latin.jpan || except_latin.kore;
    let recommended = except_latin
        .base
        .iter()
        .any(|script| script.is_recommended() && script != Script::Cyrillic && script != Script::Greek);
    all.is_empty() && !with_latin && !recommended
}
