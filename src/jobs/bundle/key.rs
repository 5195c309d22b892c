//! The key that bundles are signed with, and keys as text.
//!
//! `DATA/key/bundle.key` is PKCS#8 in PEM, mode 0600 in a folder of mode 0700. Public keys are told
//! as `orlop-ed25519:` and the 32 bytes in base64.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::util::fs::sync_dir;

const WORDS: &str = "orlop-ed25519:";
const KEY_BYTES: usize = 32;

/// An ed25519 signature.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// The largest key file that is looked at: an ed25519 key in PEM has some 160 bytes.
pub(super) const MAX_KEY_FILE_BYTES: u64 = 4096;

const FILE: &str = "bundle.key";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Who signs, as everybody may know it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Whether `signature` is this key's for `signed`.
    pub(super) fn has_signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(signed, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORDS}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a public key is written like `orlop-ed25519:` and 44 characters, as `orlop key show` prints it"
)]
pub struct InvalidKey;

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<PublicKey, InvalidKey> {
        let digits = text.trim().strip_prefix(WORDS).ok_or(InvalidKey)?;
        let bytes = STANDARD.decode(digits).map_err(|_base64| InvalidKey)?;
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_length| InvalidKey)?;
        Ok(PublicKey(bytes))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<PublicKey, InvalidKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

/// The key that signs. It does not print.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

impl SigningKey {
    /// Reads a key file: PKCS#8, in PEM or as it is.
    pub(super) fn read(bytes: &[u8]) -> Result<SigningKey, Error> {
        let document = match str::from_utf8(bytes).ok().and_then(pem_body) {
            Some(body) => STANDARD.decode(body).map_err(|_base64| no_key())?,
            None => bytes.to_vec(),
        };
        // Keys that openssl made have no public half in them.
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document).map_err(|_rejected| no_key())?;
        let public =
            <[u8; KEY_BYTES]>::try_from(pair.public_key().as_ref()).map_err(|_length| no_key())?;
        Ok(SigningKey {
            pair,
            public: PublicKey(public),
        })
    }

    /// A new key, and the text of its file.
    pub(super) fn generate() -> Result<(SigningKey, String), Error> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_none| Error::Key("the system gives no random bytes for a key".to_owned()))?;
        let body = STANDARD.encode(document.as_ref());
        let mut text = format!("{PEM_BEGIN}\n");
        for line in body.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str(PEM_END);
        text.push('\n');
        Ok((SigningKey::read(document.as_ref())?, text))
    }

    /// A key that is always the same.
    #[cfg(test)]
    pub(super) fn of_seed(seed: u8) -> SigningKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed is a key");
        let public = pair.public_key().as_ref().try_into().expect("32 bytes");
        SigningKey {
            pair,
            public: PublicKey(public),
        }
    }

    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    /// The signature for `signed`, the same each time.
    pub(super) fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        for (byte, made) in signature.iter_mut().zip(self.pair.sign(signed).as_ref()) {
            *byte = *made;
        }
        signature
    }
}

fn no_key() -> Error {
    Error::Key("this is no ed25519 key in PKCS#8, as `orlop key generate` makes one".to_owned())
}

fn pem_body(text: &str) -> Option<String> {
    let (_before, rest) = text.split_once(PEM_BEGIN)?;
    let (body, _after) = rest.split_once(PEM_END)?;
    Some(body.split_whitespace().collect())
}

/// Where the key of this store is.
#[derive(Debug, Clone)]
pub(super) struct KeyFile {
    dir: PathBuf,
}

impl KeyFile {
    pub(super) fn of(dir: &Path) -> KeyFile {
        KeyFile {
            dir: dir.to_owned(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// The key; `None`: there is none yet.
    pub(super) fn read(&self) -> Result<Option<SigningKey>, Error> {
        let path = self.path();
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > MAX_KEY_FILE_BYTES => return Err(no_key()),
            Err(_) | Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(Error::reading(path.display()))?;
        SigningKey::read(&bytes).map(Some)
    }

    /// Makes a new key in the place of whatever is there, whole or not at all.
    pub(super) fn generate(&self) -> Result<SigningKey, Error> {
        let (key, text) = SigningKey::generate()?;
        self.keep(&text).map_err(Error::writing)?;
        Ok(key)
    }

    fn keep(&self, text: &str) -> io::Result<()> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        made?;
        let new = self.dir.join("bundle.key.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_reads_what_it_writes_and_signs_the_same_each_time() {
        let place = tempfile::tempdir().expect("a folder");
        let file = KeyFile::of(&place.path().join("key"));
        assert!(file.read().expect("no trouble").is_none());
        let made = file.generate().expect("a key");
        let read = file.read().expect("a good file").expect("it is there");
        assert_eq!(made.public(), read.public());
        let signature = made.sign(b"words");
        assert_eq!(signature, read.sign(b"words"));
        assert!(made.public().has_signed(b"words", &signature));
        assert!(!made.public().has_signed(b"Words", &signature));
        let text = made.public().to_string();
        assert_eq!(text.parse(), Ok(made.public()));
        let rights = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(rights(&file.path()), 0o600);
        assert_eq!(rights(&place.path().join("key")), 0o700);
        assert!(!format!("{made:?}").contains("BEGIN"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "orlop-ed25519:", "orlop-ed25519:AAAA", "AAAA"] {
            assert_eq!(text.parse::<PublicKey>(), Err(InvalidKey), "{text}");
        }
        assert!(SigningKey::read(b"").is_err());
        assert!(SigningKey::read(format!("{PEM_BEGIN}\nAAAA\n{PEM_END}").as_bytes()).is_err());
    }
}
