//! `cargo run -- certificates`: a small certificate authority for the chapters' `--tls`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tcp_socket::base::limits::defaults;
use tcp_socket::base::principals::{self, is_name};
use tcp_socket::base::tls::FOLDER;
use tcp_socket::base::token::Token;
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// Days for which the authority's certificate is valid.
const AUTHORITY_DAYS: i64 = 3650;

/// Days for which other certificates are valid. Some systems refuse a server's if it is valid longer.
const DAYS: i64 = 397;

/// Name of the authority in its certificate; a number follows.
const AUTHORITY: &str = "field guide CA";

/// Names and addresses in the server's certificate: those of loopback.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Write a certificate authority and certificates for this machine into the folder certificates
///
/// Existing files are kept. Anyone who can read ca-key.pem can pretend to be any server or client
/// to programs that trust this authority. So use these files only for experiments.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Replace the authority and these files; certificates from the old authority are then refused
    #[arg(long)]
    pub renew: bool,
    /// Also write certificates that the other side has to refuse
    #[arg(long)]
    pub broken: bool,
    /// Names of the clients that get a certificate
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = name, default_values = ["oslo-1", "rome-7"])]
    pub station: Vec<String>,
    /// Instead of writing files, create a token for this caller, and show it once
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with_all = ["renew", "broken", "station"])]
    pub token: Option<String>,
    /// What the caller with the new token may do
    #[arg(long, value_enum, default_value = "station", requires = "token")]
    pub role: principals::Role,
}

impl Default for Options {
    fn default() -> Self {
        defaults()
    }
}

fn name(text: &str) -> Result<String, &'static str> {
    is_name(text).then(|| text.to_owned()).ok_or("use 1 to 32 characters: a-z, 0-9, and -")
}

/// Shows a new token, and what the servers have to know about it.
fn show_token(name: &str, role: principals::Role, out: &mut impl Write) -> anyhow::Result<()> {
    let token = Token::generate().context("the system provides no random bytes")?;
    let role = format!("{role:?}").to_lowercase();
    writeln!(
        out,
        "The token of {name}. It is not stored anywhere, so keep it in a file that only {name} can read:"
    )?;
    writeln!(out, "\n{}\n", token.secret())?;
    writeln!(out, "Add this to the file that servers read with --principals, such as principals.toml:")?;
    let hash = token.sha256();
    writeln!(out, "\n[[principal]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken_sha256 = \"{hash}\"")?;
    Ok(())
}

/// Writes the files into [`FOLDER`], and lists them on `out`.
///
/// # Errors
/// If a file cannot be written, or a certificate exists without its key, or a key without its
/// certificate.
pub fn run(options: &Options, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(name) = &options.token {
        return show_token(name, options.role, out);
    }
    let folder = Path::new(FOLDER);
    let written = write(folder, options)?;
    let width = written.iter().map(|file| file.path.as_os_str().len()).max().unwrap_or_default();
    for File { path, purpose, kept } in &written {
        let path_text = path.display().to_string();
        let expiry = expiry(path)?;
        let note = if *kept { ", kept" } else { "" };
        writeln!(out, "{path_text:<width$}  until {expiry}{note}: {purpose}")?;
    }
    writeln!(
        out,
        "Each has its private key beside it, in a file whose name ends with -key.pem: keep that secret."
    )?;
    Ok(())
}

/// A certificate that [`write()`] has written or kept.
#[derive(Debug)]
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// What it is for.
    pub purpose: String,
    /// Whether it existed before.
    pub kept: bool,
}

/// Writes an authority, and certificates that it signs, with their keys.
///
/// # Errors
/// The same as for [`run`].
pub fn write(folder: &Path, options: &Options) -> anyhow::Result<Vec<File>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let now = OffsetDateTime::now_utc();
    let valid = (now - Duration::DAY, DAYS);
    let expired = (now - Duration::days(30), 20);
    let store = Store { folder, renew: options.renew };

    let (authority, file) = store.authority(now)?;
    let mut files = vec![file];
    let text = "servers show it (--tls); for localhost, 127.0.0.1, and ::1";
    files.push(store.put("server", text, || leaf(&authority, &LOCAL, Role::Server, valid))?);
    for name in &options.station {
        let stem = format!("client-{name}");
        let text = format!("clients show it with --identity {name}, if the server asks (--client-ca)");
        files.push(store.put(&stem, &text, || leaf(&authority, &[name], Role::Client, valid))?);
    }
    if options.broken {
        let key = KeyPair::generate()?;
        let other = Issuer::new(authority_params(&key, now), key);
        let wrong = ["example.test"];
        let broken = [
            ("server-expired", "broken: it has expired", &authority, &LOCAL[..], Role::Server, expired),
            ("server-other-name", "broken: it is for example.test", &authority, &wrong, Role::Server, valid),
            ("server-other-ca", "broken: from an unknown authority", &other, &LOCAL, Role::Server, valid),
            ("client-expired", "broken: it has expired", &authority, &["expired"], Role::Client, expired),
            (
                "client-other-ca",
                "broken: from an unknown authority",
                &other,
                &["other-ca"],
                Role::Client,
                valid,
            ),
        ];
        for (stem, text, issuer, names, role, time) in broken {
            files.push(store.put(stem, text, || leaf(issuer, names, role, time))?);
        }
    }
    Ok(files)
}

/// Who shows a certificate.
#[derive(Debug, Clone, Copy)]
enum Role {
    Server,
    Client,
}

/// A certificate and its private key.
type Pems = (String, String);

fn params(name: &str, (from, days): (OffsetDateTime, i64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (from, from + Duration::days(days));
    params
}

fn authority_params(key: &KeyPair, now: OffsetDateTime) -> CertificateParams {
    // Each authority has a name of its own. If two had the same name, programs would report a wrong
    // signature instead of an unknown authority.
    let end: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(&format!("{AUTHORITY} {end}"), (now - Duration::DAY, AUTHORITY_DAYS));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)); // It signs no other authorities.
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    names: &[&str],
    role: Role,
    time: (OffsetDateTime, i64),
) -> anyhow::Result<Pems> {
    let key = KeyPair::generate()?;
    let mut params = params(names[0], time);
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_name) => SanType::DnsName((*name).try_into()?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match role {
        Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// Writes pairs of a certificate and its key into a folder.
struct Store<'a> {
    folder: &'a Path,
    renew: bool,
}

impl Store<'_> {
    /// Returns the authority, and creates it if necessary.
    fn authority(&self, now: OffsetDateTime) -> anyhow::Result<(Issuer<'static, KeyPair>, File)> {
        let purpose = "both sides trust certificates that it signs (--ca, --client-ca)";
        let file = self.put("ca", purpose, || {
            let key = KeyPair::generate()?;
            Ok((authority_params(&key, now).self_signed(&key)?.pem(), key.serialize_pem()))
        })?;
        let path = self.key("ca");
        let key = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A certificate that it signs contains only its name and a hash of its key, so the key is
        // enough to continue with an existing authority.
        let key = KeyPair::from_pem(&key)?;
        Ok((Issuer::new(authority_params(&key, now), key), file))
    }

    fn key(&self, stem: &str) -> PathBuf {
        self.folder.join(format!("{stem}-key.pem"))
    }

    fn put(
        &self,
        stem: &str,
        purpose: &str,
        create: impl FnOnce() -> anyhow::Result<Pems>,
    ) -> anyhow::Result<File> {
        let path = self.folder.join(format!("{stem}.pem"));
        let key_path = self.key(stem);
        let file = |kept| File { path: path.clone(), purpose: purpose.to_owned(), kept };
        if !self.renew && path.exists() && key_path.exists() {
            return Ok(file(true));
        }
        let (certificate, key) = create().with_context(|| format!("cannot create {}", path.display()))?;
        self.put_file(&key_path, &key, 0o600)?;
        self.put_file(&path, &certificate, 0o644)?;
        Ok(file(false))
    }

    /// Writes a file that has these permissions from the moment it exists.
    fn put_file(&self, path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
        if self.renew
            && let Err(error) = fs::remove_file(path)
        {
            ensure!(error.kind() == ErrorKind::NotFound, "cannot replace {}: {error}", path.display());
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        match options.open(path).and_then(|mut file| file.write_all(text.as_bytes())) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "{} exists, but the file that belongs to it is missing; to replace all, add --renew",
                path.display()
            ),
            Err(error) => bail!("cannot write {}: {error}", path.display()),
        }
    }
}

/// Returns the date on which a certificate expires. It understands only what this program writes: in
/// DER, the dates are a sequence (0x30) of two UTC times (0x17), `YYMMDDhhmmssZ`.
fn expiry(path: &Path) -> anyhow::Result<String> {
    let certificate =
        CertificateDer::from_pem_file(path).with_context(|| format!("cannot read {}", path.display()))?;
    let dates = certificate.windows(32).find(|dates| dates.starts_with(&[0x30, 30, 0x17, 13]));
    let expiry = dates.and_then(|dates| str::from_utf8(&dates[19..25]).ok());
    let expiry = expiry.with_context(|| format!("{} has no date that this program knows", path.display()))?;
    Ok(format!("20{}-{}-{}", &expiry[..2], &expiry[2..4], &expiry[4..]))
}
