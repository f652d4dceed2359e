//! Standard output: data only, flushed as it comes, and no panic when its reader leaves.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::exit::Error;

/// Standard output of one command.
pub(super) struct Output<W = io::Stdout> {
    writer: W,
}

/// What a table may look like here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Columns of the terminal.
    pub(super) width: u16,
    pub(super) paint: Paint,
}

/// Whether states are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Colours,
    Plain,
}

/// Where the width of a terminal cannot be found out.
const WIDTH_DEFAULT: u16 = 100;
/// Terminals that know no width say 0; in fewer columns than this no table can be read anyway.
const WIDTH_MIN: u16 = 20;

impl Look {
    /// Of the terminal that standard output is, if it is one.
    pub(super) fn detect() -> Self {
        let terminal = io::stdout().is_terminal();
        let width = comfy_table::Table::new().width();
        let width = width.filter(|width| WIDTH_MIN <= *width);
        Self {
            width: width.unwrap_or(WIDTH_DEFAULT),
            paint: if terminal && !is_plain_wanted() {
                Paint::Colours
            } else {
                Paint::Plain
            },
        }
    }
}

/// Whether colours are unwanted on any terminal (no-color.org).
pub(super) fn is_plain_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// How often it is looked whether somebody still reads.
const LOOKED_EVERY: Duration = Duration::from_millis(250);

/// Does what may have nothing to write for a long time, and ends it once nobody reads standard output any more.
pub(super) async fn while_read<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        done = work => done,
        () = reader_left() => Err(Error::ReaderGone),
    }
}

/// Never comes where the system cannot tell, as of a file.
async fn reader_left() {
    if let Ok(own) = io::stdout().as_fd().try_clone_to_owned() {
        return closed(own).await;
    }
    std::future::pending().await
}

/// The other end of a pipe or a socket has been closed; never comes where that cannot be told.
async fn closed(end: OwnedFd) {
    let mut looks = tokio::time::interval(LOOKED_EVERY);
    loop {
        looks.tick().await;
        // Nothing is asked for: an error or a hang-up is told all the same.
        let mut asked = [PollFd::new(&end, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut asked, Some(&at_once)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return,
            Err(_) => break,
        }
    }
    std::future::pending().await
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self {
            writer: io::stdout(),
        }
    }
}

impl<W: Write> Output<W> {
    /// Text that brings its own line ends.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Error> {
        self.bytes(text.as_bytes())
    }

    /// What only programs read.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes)?;
        Ok(self.writer.flush()?)
    }

    /// A document over several lines.
    pub(super) fn json(&mut self, document: &impl Serialize) -> Result<(), Error> {
        self.document(serde_json::to_vec_pretty(document))
    }

    /// A document on a line of its own.
    pub(super) fn jsonl(&mut self, document: &impl Serialize) -> Result<(), Error> {
        self.document(serde_json::to_vec(document))
    }

    fn document(&mut self, encoded: serde_json::Result<Vec<u8>>) -> Result<(), Error> {
        let mut encoded = encoded.map_err(|error| Error::Answer(error.to_string()))?;
        encoded.push(b'\n');
        self.writer.write_all(&encoded)?;
        Ok(self.writer.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_leaves_ends_the_output_quietly() {
        let mut output = Output { writer: Closed };
        assert!(matches!(output.text("data\n"), Err(Error::ReaderGone)));
        assert!(matches!(output.jsonl(&[1]), Err(Error::ReaderGone)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_is_closed_once_its_reader_has_left() {
        let (reader, writer) = io::pipe().unwrap();
        let left = closed(writer.into());
        tokio::pin!(left);
        tokio::select! {
            biased;
            () = &mut left => panic!("it is read"),
            () = tokio::task::yield_now() => {}
        }
        drop(reader);
        left.await;
    }

    #[test]
    fn a_document_ends_its_line() {
        let mut output = Output { writer: Vec::new() };
        output.jsonl(&[1]).unwrap();
        output.json(&[2]).unwrap();
        assert_eq!(output.writer, b"[1]\n[\n  2\n]\n");
    }
}
