//! Tokens: secrets that say who is calling. A client keeps the token itself, a server only its hash.

use std::path::Path;
use std::{fmt, fs, io};

use anyhow::{Context, ensure};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;

/// Beginning of every token that [`Token::generate`] makes, so that people and scanners recognize
/// one that was committed to a repository by mistake.
pub const TOKEN_PREFIX: &str = "wst_";

/// Environment variable with a client's token.
const VARIABLE: &str = "TOKEN";

/// A token. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns a token that nobody can guess: 256 random bits.
    ///
    /// # Errors
    /// If the system cannot provide random bytes.
    pub fn generate() -> io::Result<Self> {
        let mut random = [0; SHA256_OUTPUT_LEN];
        getrandom::fill(&mut random)?;
        Ok(Self(format!("{TOKEN_PREFIX}{}", Hash(random))))
    }

    /// Returns its text, only to send it or to show it once.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Returns its SHA-256, for the file of principals.
    pub fn sha256(&self) -> Hash {
        Hash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Reads a client's token from a file or, without one, from the environment. It is never an
/// argument, because every user of a machine can see the arguments of all programs.
///
/// # Errors
/// If the file is unreadable or holds no token.
pub fn client_token(file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    let (text, from) = match file {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            (text, path.display().to_string())
        }
        None => match std::env::var(VARIABLE) {
            Ok(text) => (text, format!("the environment variable {VARIABLE}")),
            Err(_) => return Ok(None),
        },
    };
    let token = text.trim();
    let valid = (1..=255).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(valid, "{from} holds no token: a token has 1 to 255 printable ASCII characters and no space");
    Ok(Some(Token(token.to_owned())))
}

/// A SHA-256. The file of principals has it in hexadecimal.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hash(pub [u8; SHA256_OUTPUT_LEN]);

impl Hash {
    pub(super) fn of(token: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash") // Debug output may get into a log.
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        let digits = text.len() == 2 * hash.len() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (at, byte) in hash.iter_mut().enumerate().filter(|_| digits) {
            *byte = u8::from_str_radix(&text[2 * at..][..2], 16).unwrap_or_default();
        }
        digits.then_some(Self(hash)).ok_or("a SHA-256 has 64 hexadecimal digits")
    }
}

/// Returns the token in `Bearer TOKEN`. The case of the scheme does not matter, and one or more
/// spaces follow it (RFC 9110, sections 11.1 and 11.4).
pub fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked("Bearer".len())?;
    let token = rest.trim_ascii_start();
    let spaces = &rest[..rest.len() - token.len()];
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer") && !spaces.is_empty();
    (is_bearer && spaces.iter().all(|byte| *byte == b' ')).then_some(token)
}
