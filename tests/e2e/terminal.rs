//! A terminal that a program under test can write to.

use std::fs::File;
use std::io::Read;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What reads, and what the program gets.
pub(crate) fn open() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a pseudoterminal of one's own");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let terminal = File::options().read(true).write(true).open(name).expect("its other side");
    (File::from(master), terminal)
}

/// Everything that was printed, once nobody holds the other side any more.
pub(crate) fn read_to_end(mut master: File) -> String {
    let mut printed = Vec::new();
    let mut piece = [0; 4096];
    // It ends with an error, since there is no end of file on a terminal.
    while let Ok(length @ 1..) = master.read(&mut piece) {
        printed.extend_from_slice(&piece[..length]);
    }
    String::from_utf8(printed).expect("UTF-8")
}
