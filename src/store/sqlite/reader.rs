//! The thread that reads messages, on a connection of its own: it never waits for a sync of the writer, and sees what
//! is committed and nothing else.

use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot};

use super::rows::reply_to;
use super::rows::{signed, taken, unsigned};
use super::schema;
use crate::domain::session::{Epoch, SessionId};
use crate::store::Error;
use crate::store::record::Hash;
use crate::store::record::{Post, Reply, Slice, ToClient, ToInstance};

/// What the thread is told.
pub(super) enum Order {
    /// Read something and answer it.
    Read(Box<dyn FnOnce(&mut Reader) + Send>),
    /// Let go of the file.
    Stop(oneshot::Sender<()>),
}

/// A connection, made when it is needed.
pub(super) struct Reader {
    path: PathBuf,
    file: Option<Connection>,
}

/// Runs until it is told to stop, or nobody can give orders any more.
pub(super) fn run(path: PathBuf, mut orders: mpsc::Receiver<Order>) {
    let mut reader = Reader { path, file: None };
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Read(read) => read(&mut reader),
            Order::Stop(stopped) => {
                reader.file = None;
                // Whoever has left need not know.
                let _ = stopped.send(());
                return;
            }
        }
    }
}

impl Reader {
    /// Reads in one transaction. After a failure the file is opened again.
    pub(super) fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<Result<T, Error>>,
    ) -> Result<T, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string().into());
        let file = match self.file.take() {
            Some(file) => file,
            None => schema::open_reader(&self.path).map_err(|error| failed(&error))?,
        };
        let done = file.unchecked_transaction().and_then(|transaction| {
            let found = read(&transaction)?;
            transaction.commit()?;
            Ok(found)
        });
        match done {
            Ok(found) => {
                self.file = Some(file);
                found
            }
            Err(error) => {
                tracing::error!(%error, "the journal cannot be read");
                Err(failed(&error))
            }
        }
    }
}

/// The row of a session, and what is removed of one of its logs.
fn session(
    file: &Connection,
    id: &SessionId,
    removed: &str,
) -> rusqlite::Result<Result<(i64, u64), Error>> {
    let mut statement = file.prepare_cached(&format!(
        "SELECT number, {removed} FROM sessions WHERE id = ?1"
    ))?;
    let found = statement.query_row(params![id.as_str()], |row| {
        Ok((row.get(0)?, unsigned(row.get(1)?)))
    });
    Ok(found.optional()?.ok_or(Error::NotFound))
}

/// Reads messages until they are too many bytes, the first one apart.
fn messages<T>(
    statement: &mut rusqlite::CachedStatement<'_>,
    (row, after): (i64, u64),
    bytes_max: usize,
    read: impl Fn(&rusqlite::Row<'_>, Bytes) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut rows = statement.query(params![row, signed(after)])?;
    let (mut found, mut sum) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let bytes: usize = row.get("bytes")?;
        sum = sum.saturating_add(bytes);
        if bytes_max < sum && !found.is_empty() {
            break;
        }
        let payload: Vec<u8> = row.get("payload")?;
        found.push(read(row, payload.into())?);
    }
    Ok(found)
}

/// Messages to the instance.
pub(super) fn to_instance(
    file: &Connection,
    id: &SessionId,
    after: u64,
    bytes_max: usize,
) -> rusqlite::Result<Result<Slice<ToInstance>, Error>> {
    let (row, removed) = match session(file, id, "to_instance_removed")? {
        Ok(found) => found,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut statement = file.prepare_cached(
        "SELECT position, client_seq, in_reply_to, bytes, payload FROM to_instance
         WHERE session = ?1 AND position > ?2 ORDER BY position",
    )?;
    let read = |row: &rusqlite::Row<'_>, payload| {
        Ok(ToInstance {
            position: unsigned(row.get(0)?),
            client_seq: unsigned(row.get(1)?),
            in_reply_to: unsigned(row.get(2)?),
            payload,
        })
    };
    let messages = messages(&mut statement, (row, after), bytes_max, read)?;
    Ok(Ok(Slice { removed, messages }))
}

/// Messages to the client.
pub(super) fn to_client(
    file: &Connection,
    id: &SessionId,
    after: u64,
    bytes_max: usize,
) -> rusqlite::Result<Result<Slice<ToClient>, Error>> {
    let (row, removed) = match session(file, id, "to_client_removed")? {
        Ok(found) => found,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut statement = file.prepare_cached(
        "SELECT seq, epoch, instance_seq, taken, reply_kind, reply_position, reply_seq, bytes, payload FROM to_client
         WHERE session = ?1 AND seq > ?2 ORDER BY seq",
    )?;
    let read = |row: &rusqlite::Row<'_>, payload| {
        let kind: Option<String> = row.get(4)?;
        Ok(ToClient {
            seq: unsigned(row.get(0)?),
            epoch: Epoch::new(unsigned(row.get(1)?)),
            instance_seq: unsigned(row.get(2)?),
            taken: taken(row.get(3)?),
            reply_to: reply_to(
                kind.as_deref(),
                unsigned(row.get(5)?),
                unsigned(row.get(6)?),
            ),
            payload,
        })
    };
    let messages = messages(&mut statement, (row, after), bytes_max, read)?;
    Ok(Ok(Slice { removed, messages }))
}

/// A post by its key.
pub(super) fn post(
    file: &Connection,
    id: &SessionId,
    key: &str,
) -> rusqlite::Result<Result<Option<Post>, Error>> {
    let (row, _) = match session(file, id, "posts_forgotten")? {
        Ok(found) => found,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut statement = file.prepare_cached(
        "SELECT position, body, reply_seq, reply FROM posts WHERE session = ?1 AND key = ?2",
    )?;
    let found = statement.query_row(params![row, key], |row| {
        let reply: (Option<i64>, Option<Vec<u8>>) = (row.get(2)?, row.get(3)?);
        Ok(Post {
            position: unsigned(row.get(0)?),
            body: Hash(row.get(1)?),
            reply: reply.0.zip(reply.1).map(|(seq, payload)| Reply {
                seq: unsigned(seq),
                payload: payload.into(),
            }),
        })
    });
    Ok(Ok(found.optional()?))
}
