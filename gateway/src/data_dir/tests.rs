use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_directory_and_its_parents_are_for_the_owner_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let dir = DataDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&root.path().join("a")), 0o700);
    assert_eq!(mode(&dir.path("lock")), 0o600);
}

#[test]
fn a_directory_that_is_open_to_others_is_closed_to_them() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o2775)).unwrap();
    DataDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_relative_path_becomes_absolute() {
    let here = std::env::current_dir().unwrap();
    let root = tempfile::tempdir_in(&here).unwrap();
    let relative = root.path().strip_prefix(&here).unwrap();
    assert_eq!(DataDir::open(relative).unwrap().path("x"), root.path().join("x"));
}

#[test]
fn a_second_gateway_is_refused_and_told_which_directory() {
    let root = tempfile::tempdir().unwrap();
    let first = DataDir::open(root.path()).unwrap();
    let clone = first.clone();
    drop(first);
    let error = DataDir::open(root.path()).unwrap_err();
    assert!(matches!(error, DataDirError::InUse(_)));
    assert!(error.to_string().contains(root.path().to_str().unwrap()), "{error}");
    drop(clone);
    DataDir::open(root.path()).unwrap();
}

/// The lock holds as long as one of its two owners has it.
#[test]
fn a_directory_is_inherited_together_with_its_lock() {
    let root = tempfile::tempdir().unwrap();
    let first = DataDir::open(root.path()).unwrap();
    let lock = || OwnedFd::from(first.lock().try_clone().unwrap());
    let second = DataDir::inherit(root.path(), lock()).unwrap();
    let other = tempfile::tempdir().unwrap();
    for path in [other.path().to_owned(), other.path().join("missing")] {
        let refused = DataDir::inherit(&path, lock()).unwrap_err();
        assert!(matches!(refused, DataDirError::NotHandedOver(_)), "{refused}");
    }
    drop(first);
    assert!(matches!(DataDir::open(root.path()).unwrap_err(), DataDirError::InUse(_)));
    drop(second);
    DataDir::open(root.path()).unwrap();
}

#[test]
fn what_is_no_directory_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = DataDir::open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_token_is_made_once_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    let (token, path) = dir.read_or_make_token("admin-token").unwrap();
    assert_eq!(path, root.path().join("admin-token"));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(token.expose().len(), 64);
    assert!(token.expose().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(dir.read_or_make_token("registration-token").unwrap().0, token);

    drop(dir);
    let dir = DataDir::open(root.path()).unwrap();
    assert_eq!(dir.read_or_make_token("admin-token").unwrap().0, token);
}

#[test]
fn a_crash_while_a_token_was_written_leaves_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    fs::write(dir.path("admin-token.unfinished"), "ab").unwrap();
    let (token, path) = dir.read_or_make_token("admin-token").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), token.expose());
    assert_eq!(mode(&path), 0o600);
    assert!(!dir.path("admin-token.unfinished").exists());
}

#[test]
fn an_operators_own_token_counts_and_is_closed_to_others() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    let path = dir.path("admin-token");
    fs::write(&path, "chosen\r\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(dir.read_or_make_token("admin-token").unwrap().0.expose(), "chosen");
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_file_without_a_token_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    for content in ["".as_bytes(), b" \n", b"two words", "t\u{f6}ken".as_bytes(), b"\xff"] {
        let path = dir.path("admin-token");
        fs::write(&path, content).unwrap();
        let error = dir.read_or_make_token("admin-token").unwrap_err();
        assert!(matches!(&error, DataDirError::NotAToken(named) if *named == path), "{content:?}: {error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}
