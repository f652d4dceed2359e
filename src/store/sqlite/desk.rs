//! Where the one writer works: the sessions as they are counted, and the file that they are written to. A batch is
//! one transaction; nothing is seen of it, here or elsewhere, before it is committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{self, Unreadable, signed};
use super::space::Reserve;
use crate::domain::session::{Durability, SessionId};
use crate::store::Error;
use crate::store::book::{First, Payloads};
use crate::store::record::{
    Appended, Created, Direction, Fence, NewSession, NewToClient, NewToInstance, Origin, Session,
};
use crate::store::shelf::{Shelf, lost};
use crate::store::world::{Room, World};

/// The world, and its file.
pub(super) struct Desk {
    pub(super) world: World,
    pub(super) file: Connection,
    synchronous: Sync,
    /// The sessions that this batch has made, as they were written down.
    created: BTreeMap<SessionId, Shelf>,
    /// How many commits there were.
    commits: u64,
    /// What clients may not use.
    pub(super) reserve: Reserve,
}

/// Whether a commit waits until it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// It does.
    Full,
    /// It is only in order: it is on the disk when the next one that waits is.
    Ordered,
}

/// Why a call is not carried out.
#[derive(Debug)]
pub(super) enum Halt {
    /// It is refused; the others of its batch are not touched.
    Refused(Error),
    /// Its batch has failed.
    Broken(Broken),
}

/// Why a batch has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// SQLite says so.
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    /// Somebody else has changed the file, in spite of the lock.
    #[error("another process has changed the journal")]
    Foreign,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<Broken> for Halt {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Broken {
    /// Whether there is only no room.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Sql(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Foreign => false,
        }
    }

    /// Whether somebody else was in the way.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Sql(rusqlite::Error::QueryReturnedNoRows) => true,
            Self::Sql(error) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
            }
            Self::Foreign => false,
        }
    }
}

fn is_on_disk(shelf: &Shelf) -> bool {
    match shelf.book.durability() {
        Durability::Durable => true,
        Durability::None => false,
    }
}

/// A transaction begins with the first write of a batch: without one, nothing waits for a disk.
fn begin(file: &Connection) -> rusqlite::Result<()> {
    if file.is_autocommit() {
        file.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    }
    Ok(())
}

impl Desk {
    /// Counts what is in the file.
    pub(super) fn new(file: Connection, room: Room) -> Result<Self, Unreadable> {
        let mut world = World::new(room);
        for shelf in rows::load(&file)? {
            world.restore(shelf);
        }
        Ok(Self {
            world,
            file,
            synchronous: Sync::Full,
            created: BTreeMap::new(),
            commits: 0,
            reserve: Reserve::default(),
        })
    }

    pub(super) fn sync(&mut self, wanted: Sync) -> Result<(), Broken> {
        if wanted != self.synchronous {
            let setting = match wanted {
                Sync::Full => "FULL",
                Sync::Ordered => "NORMAL",
            };
            self.file.pragma_update(None, "synchronous", setting)?;
            self.synchronous = wanted;
        }
        Ok(())
    }

    /// Makes everything of the batch durable, or whatever its commit was to be.
    pub(super) fn commit(&mut self) -> Result<(), Broken> {
        self.write_changes()?;
        if !self.file.is_autocommit() {
            self.file.prepare_cached("COMMIT")?.execute([])?;
            self.commits += 1;
        }
        self.created.clear();
        Ok(())
    }

    /// Takes everything of the batch back.
    pub(super) fn roll_back(&mut self) {
        if !self.file.is_autocommit() {
            // It has failed already; a transaction that is left open goes with the connection.
            let _ = self.file.execute_batch("ROLLBACK");
        }
        self.created.clear();
        self.world.roll_back();
    }

    /// The sessions that would be lost with this.
    pub(super) fn not_on_disk(&self) -> Vec<Shelf> {
        let shelves = self.world.shelves();
        let open = shelves.filter(|shelf| shelf.book.ends_with_its_process());
        open.cloned().collect()
    }

    /// Ends what survives no restart.
    pub(super) fn reopen(&mut self) -> Result<(), Broken> {
        self.world.reopen();
        self.commit()?;
        self.world.commit().for_each(drop);
        Ok(())
    }

    /// Moves everything from the log into the file, and waits until it is on the disk.
    pub(super) fn checkpoint(&self) -> Result<(), Broken> {
        let busy: i64 = self
            .file
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(rusqlite::Error::QueryReturnedNoRows.into());
        }
        Ok(())
    }

    /// Writes what is there already.
    pub(super) fn try_room(&self) -> Result<(), Broken> {
        let version: i32 = self
            .file
            .pragma_query_value(None, "user_version", |row| row.get(0))?;
        begin(&self.file)?;
        Ok(self.file.pragma_update(None, "user_version", version)?)
    }

    /// How many commits there were since the file was opened.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// As a disk with room for so many pages.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) -> Result<(), Broken> {
        Ok(self.file.pragma_update(None, "max_page_count", pages)?)
    }

    pub(super) fn create(&mut self, new: NewSession) -> Result<Created, Halt> {
        self.reserve.check()?;
        let created = self.world.create(new)?;
        if let Created::New(session) = &created {
            begin(&self.file)?;
            let row = rows::insert(&self.file, session)?;
            let written = self.world.change(session.id(), |shelf, _| {
                shelf.row = row;
                Ok::<_, Halt>(shelf.clone())
            })?;
            self.created.insert(session.id().clone(), written);
        }
        Ok(created)
    }

    pub(super) fn append_to_instance(
        &mut self,
        id: &SessionId,
        fence: &Fence,
        messages: Vec<NewToInstance>,
    ) -> Result<Vec<Appended>, Halt> {
        if is_on_disk(self.world.shelf(id)?) {
            self.reserve.check()?;
        }
        let file = &self.file;
        self.world.change_for_client(id, |shelf, free| {
            if !is_on_disk(shelf) {
                return Ok(shelf.append_to_instance(fence, messages, free)?);
            }
            let row = shelf.row;
            let decided = look_up(file, row, Direction::ToInstance, |written| {
                let book = &mut shelf.book;
                book.append_to_instance(fence, messages, free, written)
            })?;
            for kept in &decided.kept {
                begin(file)?;
                let client_seq = match &kept.message.origin {
                    Origin::Stream { seq } => *seq,
                    Origin::Post { key, at_ms } => {
                        let body = key.as_ref().map(|key| key.body.0);
                        file.prepare_cached(
                            "INSERT INTO posts (session, position, key, body, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                        )?
                        .execute(params![
                            row,
                            signed(kept.number),
                            key.as_ref().map(|key| &key.key),
                            body,
                            signed(*at_ms)
                        ])?;
                        0
                    }
                };
                let payload = &*kept.message.payload;
                // The fence is in the statement itself, so that it holds whatever this process believes.
                let written = file
                    .prepare_cached(
                        "INSERT INTO to_instance (session, position, client_seq, in_reply_to, bytes, payload)
                         SELECT number, ?4, ?5, ?6, ?7, ?8 FROM sessions
                         WHERE number = ?1 AND epoch = ?2 AND owner = ?3 AND closed_ms IS NULL",
                    )?
                    .execute(params![
                        row,
                        signed(fence.epoch.number()),
                        fence.owner.as_str(),
                        signed(kept.number),
                        signed(client_seq),
                        signed(kept.message.in_reply_to),
                        payload.len(),
                        payload,
                    ])?;
                one(written)?;
            }
            Ok(decided.answers)
        })
    }

    pub(super) fn append_to_client(
        &mut self,
        id: &SessionId,
        fence: &Fence,
        messages: Vec<NewToClient>,
    ) -> Result<Vec<Appended>, Halt> {
        let file = &self.file;
        self.world.change(id, |shelf, free| {
            if !is_on_disk(shelf) {
                return Ok(shelf.append_to_client(fence, messages, free)?);
            }
            let row = shelf.row;
            let decided = look_up(file, row, Direction::ToClient, |written| {
                let book = &mut shelf.book;
                book.append_to_client(fence, messages, free, written)
            })?;
            for kept in &decided.kept {
                begin(file)?;
                let payload = &*kept.message.payload;
                let (kind, position, reply_seq) = rows::reply_columns(kept.reply_to);
                let written = file
                    .prepare_cached(
                        "INSERT INTO to_client (session, seq, epoch, instance_seq, taken, bytes, reply_kind,
                             reply_position, reply_seq, payload)
                         SELECT number, ?4, ?2, ?5, 0, ?6, ?7, ?8, ?9, ?10 FROM sessions
                         WHERE number = ?1 AND epoch = ?2 AND owner = ?3 AND closed_ms IS NULL",
                    )?
                    .execute(params![
                        row,
                        signed(fence.epoch.number()),
                        fence.owner.as_str(),
                        signed(kept.number),
                        signed(kept.message.instance_seq),
                        payload.len(),
                        kind,
                        signed(position),
                        signed(reply_seq),
                        payload,
                    ])?;
                one(written)?;
                if kept.first_reply == First::Yes {
                    file.prepare_cached(
                        "UPDATE posts SET reply_seq = ?3, reply_bytes = ?4, reply = ?5 WHERE session = ?1 AND position = ?2",
                    )?
                    .execute(params![
                        row,
                        signed(position),
                        signed(kept.number),
                        payload.len(),
                        payload
                    ])?;
                }
            }
            Ok(decided.answers)
        })
    }

    pub(super) fn take(&mut self, id: &SessionId, fence: &Fence, seq: u64) -> Result<(), Halt> {
        let file = &self.file;
        self.world.change(id, |shelf, _| {
            let settled = shelf.book.session().to_client.settled;
            shelf.take(fence, seq)?;
            if is_on_disk(shelf) && settled < seq {
                begin(file)?;
                file.prepare_cached(
                    "UPDATE to_client SET taken = 1 WHERE session = ?1 AND seq = ?2",
                )?
                .execute(params![shelf.row, signed(seq)])?;
            }
            Ok(())
        })
    }

    /// Writes down what the batch has changed of the sessions themselves, and removes what is not kept any more.
    fn write_changes(&mut self) -> Result<(), Broken> {
        let file = &self.file;
        for (id, before) in self.world.changed() {
            match (before, self.world.shelf(id).ok()) {
                (Some(before), Some(now)) => write_change(file, before, now)?,
                (Some(before), None) => remove(file, before.row)?,
                (None, Some(now)) => {
                    if let Some(written) = self.created.get(id) {
                        write_change(file, written, now)?;
                    }
                }
                (None, None) => {
                    if let Some(written) = self.created.get(id) {
                        remove(file, written.row)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes one session down, if anything of it has changed that its messages do not tell.
fn write_change(file: &Connection, before: &Shelf, now: &Shelf) -> Result<(), Broken> {
    let (mut was, mut is) = (before.book.session(), now.book.session());
    let mut forgotten = (before.book.posts_forgotten(), now.book.posts_forgotten());
    if !is_on_disk(now) {
        // Its counters are nowhere but in memory.
        for session in [&mut was, &mut is] {
            (session.to_instance, session.to_client) = Default::default();
            (session.gone, session.gone_posts) = Default::default();
        }
        forgotten = (0, 0);
    }
    if is_same(&was, &is) && forgotten.0 == forgotten.1 {
        return Ok(());
    }
    begin(file)?;
    one(rows::update(file, now.row, &was, &is, forgotten.1)?)?;
    let delete = |sql, before: u64, now_removed: u64| -> Result<(), Broken> {
        if before != now_removed {
            let mut statement = file.prepare_cached(sql)?;
            statement.execute(params![now.row, signed(now_removed)])?;
        }
        Ok(())
    };
    delete(
        "DELETE FROM to_instance WHERE session = ?1 AND position <= ?2",
        was.to_instance.removed,
        is.to_instance.removed,
    )?;
    delete(
        "DELETE FROM to_client WHERE session = ?1 AND seq <= ?2",
        was.to_client.removed,
        is.to_client.removed,
    )?;
    delete(
        "DELETE FROM posts WHERE session = ?1 AND position <= ?2",
        forgotten.0,
        forgotten.1,
    )
}

fn is_same(was: &Session, is: &Session) -> bool {
    let counters = |session: &Session| {
        let (one, other) = (session.to_instance, session.to_client);
        (one.acked, one.removed, other.acked, other.removed)
    };
    was.epoch == is.epoch
        && was.owner == is.owner
        && was.instance == is.instance
        && was.token == is.token
        && was.state == is.state
        && was.gone == is.gone
        && was.gone_posts == is.gone_posts
        && counters(was) == counters(is)
}

fn remove(file: &Connection, row: i64) -> Result<(), Broken> {
    begin(file)?;
    for sql in [
        "DELETE FROM to_instance WHERE session = ?1",
        "DELETE FROM to_client WHERE session = ?1",
        "DELETE FROM posts WHERE session = ?1",
        "DELETE FROM sessions WHERE number = ?1",
    ] {
        file.prepare_cached(sql)?.execute(params![row])?;
    }
    Ok(())
}

/// The one row of a session was there, in the epoch and with the owner that were expected.
fn one(changed: usize) -> Result<(), Broken> {
    if changed == 1 {
        Ok(())
    } else {
        Err(Broken::Foreign)
    }
}

/// Lets a book decide. Where looking up a payload fails, so does the batch.
fn look_up<T>(
    file: &Connection,
    row: i64,
    direction: Direction,
    decide: impl FnOnce(Payloads<'_>) -> Result<T, Error>,
) -> Result<T, Halt> {
    let sql = match direction {
        Direction::ToInstance => {
            "SELECT payload FROM to_instance WHERE session = ?1 AND position = ?2"
        }
        Direction::ToClient => "SELECT payload FROM to_client WHERE session = ?1 AND seq = ?2",
    };
    let mut broken = None;
    let mut written = |number: u64| {
        let found = file.prepare_cached(sql).and_then(|mut statement| {
            let payload =
                statement.query_row(params![row, signed(number)], |row| row.get::<_, Vec<u8>>(0));
            payload.optional()
        });
        match found {
            Ok(Some(payload)) => Ok(Bytes::from(payload)),
            Ok(None) => Err(lost(number)),
            Err(error) => {
                broken = Some(error);
                Err(lost(number))
            }
        }
    };
    let decided = decide(&mut written);
    match broken {
        Some(error) => Err(error.into()),
        None => Ok(decided?),
    }
}
