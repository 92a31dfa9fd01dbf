//! The user's cache folder: what `cargo clean` and a second clone must not lose.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder that `OPT_CACHE_DIR` names, else `$XDG_CACHE_HOME/opt-rs`, else `~/.cache/opt-rs`. It need not exist yet.
///
/// # Errors
///
/// None of the three variables holds an absolute path, or the first holds a relative one.
pub fn folder() -> Result<PathBuf> {
    choose(
        absolute(std::env::var_os("OPT_CACHE_DIR"))?,
        std::env::var_os("XDG_CACHE_HOME"),
        std::env::var_os("HOME"),
    )
    .context(
        "no cache folder: none of OPT_CACHE_DIR, XDG_CACHE_HOME and HOME is set to an absolute path; export OPT_CACHE_DIR",
    )
}

/// The folder of our own variable: nobody has exported it to have another one used in silence.
fn absolute(own: Option<OsString>) -> Result<Option<OsString>> {
    if let Some(relative) = own
        .as_ref()
        .filter(|own| !own.is_empty() && Path::new(own).is_relative())
    {
        bail!(
            "OPT_CACHE_DIR is `{}`, expected a path from the root: a relative one is another folder wherever a command starts",
            relative.display()
        );
    }
    Ok(own)
}

/// The XDG rule: a relative path counts as unset, and so does an empty one.
fn choose(
    own: Option<OsString>,
    cache_home: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    own.and_then(absolute).or_else(|| {
        cache_home
            .and_then(absolute)
            .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
            .map(|cache| cache.join("opt-rs"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_folder_of_our_own_is_refused() {
        let own = |text: &str| Some(OsString::from(text));
        for sound in [None, own(""), own("/o")] {
            assert_eq!(absolute(sound.clone()).unwrap(), sound);
        }
        let error = absolute(own("o/p")).unwrap_err().to_string();
        assert!(error.contains("OPT_CACHE_DIR is `o/p`"), "{error}");
    }

    #[test]
    fn the_folder_follows_its_own_variable_and_then_xdg() {
        struct Case {
            own: Option<&'static str>,
            cache_home: Option<&'static str>,
            home: Option<&'static str>,
            expected: Option<&'static str>,
        }
        let cases = [
            // The own variable names the folder itself.
            Case {
                own: Some("/o"),
                cache_home: Some("/c"),
                home: Some("/h"),
                expected: Some("/o"),
            },
            Case {
                own: None,
                cache_home: Some("/c"),
                home: Some("/h"),
                expected: Some("/c/opt-rs"),
            },
            Case {
                own: None,
                cache_home: None,
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            // Empty and relative values count as unset.
            Case {
                own: Some(""),
                cache_home: Some(""),
                home: Some("/h"),
                expected: Some("/h/.cache/opt-rs"),
            },
            Case {
                own: None,
                cache_home: Some("c"),
                home: None,
                expected: None,
            },
        ];
        for Case {
            own,
            cache_home,
            home,
            expected,
        } in cases
        {
            let chosen = choose(
                own.map(OsString::from),
                cache_home.map(OsString::from),
                home.map(OsString::from),
            );
            assert_eq!(
                chosen,
                expected.map(PathBuf::from),
                "{own:?} {cache_home:?} {home:?}"
            );
        }
    }
}
