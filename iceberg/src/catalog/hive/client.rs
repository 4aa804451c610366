//! [`Client`]: connections to the metastores of one catalog.
use super::reply::{Reply, Shape};
use super::wire::{CALL, Fault, Input, LIST, Output, STRING};
use crate::catalog::{CatalogError, Options, passed_on};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// So long making a connection may take, and a reply.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest reply.
pub(super) const REPLY_MAX_BYTES: usize = 64 << 20;
/// So many questions are asked at once.
const CONNECTIONS: usize = 4;

/// Options that want what is not there.
const SECURED: [&str; 3] =
    ["hive.kerberos-authentication", "hive.metastore.sasl.enabled", "hive.metastore.use.SSL"];

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Client {
    /// `host:port`, in the order in which they were named.
    servers: Vec<String>,
    /// The one that answered last.
    first: AtomicUsize,
    /// In whose name questions are asked: a user, and groups.
    user: Option<(String, Vec<String>)>,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

/// One at which nobody waits for a reply.
#[derive(Debug)]
struct Connection {
    stream: BufReader<TcpStream>,
    sequence: i32,
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub method: &'a str,
    /// The fields of its arguments, with the end of their struct.
    pub arguments: &'a [u8],
    pub shape: Shape,
}

impl Client {
    /// Connects to nobody yet. The option `ugi`, `USER` or `USER:GROUP,GROUP`, says in whose name it asks.
    pub fn new(servers: &[String], options: &Options) -> Result<Self, CatalogError> {
        let wanted = |name: &&str| options.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if let Some(name) = SECURED.iter().find(|name| wanted(name)) {
            let why = format!(
                "option '{name}': a metastore that wants Kerberos or TLS cannot be asked; show its tables through a \
                 REST catalog before it"
            );
            return Err(CatalogError::Refused { why });
        }
        let user = options.get("ugi").or_else(|| options.get("hive.ugi")).filter(|user| !user.is_empty());
        let user = user.map(|user| {
            let (user, groups) = user.split_once(':').unwrap_or((user, ""));
            let groups = groups.split(',').filter(|group| !group.is_empty());
            (user.to_owned(), groups.map(str::to_owned).collect())
        });
        Ok(Self {
            servers: servers.to_vec(),
            first: AtomicUsize::new(0),
            user,
            idle: Mutex::default(),
            turns: Semaphore::new(CONNECTIONS),
        })
    }

    /// Asks; at a server that goes away meanwhile the next one, for nothing is changed by any question.
    pub async fn ask(&self, question: Question<'_>) -> Result<Reply, CatalogError> {
        let _turn = self.turns.acquire().await;
        let held = self.idle.lock().pop();
        // Which may have ended long ago.
        if let Some(connection) = held
            && let Some(reply) = self.use_once(connection, question).await?
        {
            return Ok(reply);
        }
        let (first, mut last) = (self.first.load(Ordering::Relaxed), String::new());
        for n in 0..self.servers.len() {
            let number = (first + n) % self.servers.len();
            let server = &self.servers[number];
            match self.fresh(server, question).await {
                Ok((connection, reply)) => {
                    self.first.store(number, Ordering::Relaxed);
                    self.idle.lock().push(connection);
                    return Ok(reply);
                }
                Err(Fault::Io(error)) => last = format!("{server}: {error}"),
                Err(fault) => return Err(CatalogError::Refused { why: format!("{server}: {fault}") }),
            }
        }
        Err(CatalogError::Unavailable { why: last })
    }

    /// Asks at a connection that was used before; nothing, if it has ended.
    async fn use_once(
        &self,
        mut connection: Connection,
        question: Question<'_>,
    ) -> Result<Option<Reply>, CatalogError> {
        match connection.ask(question).await {
            Ok(reply) => {
                self.idle.lock().push(connection);
                Ok(Some(reply))
            }
            Err(Fault::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                Err(CatalogError::Unavailable { why: error.to_string() })
            }
            Err(Fault::Io(_)) => Ok(None),
            Err(fault) => Err(CatalogError::Refused { why: fault.to_string() }),
        }
    }

    /// Asks at a new connection.
    async fn fresh(&self, server: &str, question: Question<'_>) -> Result<(Connection, Reply), Fault> {
        let connected = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await;
        let stream = connected.map_err(|_| late("no connection", CONNECT_PATIENCE))??;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream: BufReader::new(stream), sequence: 0 };
        let all = async {
            if let Some((user, groups)) = &self.user {
                connection.introduce(user, groups).await?;
            }
            connection.ask(question).await
        };
        match all.await {
            Ok(reply) => Ok((connection, reply)),
            Err(Fault::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let why = "it ended the connection without a reply, as one does that wants Kerberos or TLS, which is \
                           not supported";
                Err(Fault::Io(std::io::Error::new(error.kind(), why)))
            }
            Err(fault) => Err(fault),
        }
    }
}

impl Connection {
    async fn ask(&mut self, question: Question<'_>) -> Result<Reply, Fault> {
        let all = self.exchange(question);
        let reply = tokio::time::timeout(PATIENCE, all).await;
        reply.unwrap_or_else(|_| Err(late("no reply", PATIENCE)))
    }

    async fn exchange(&mut self, question: Question<'_>) -> Result<Reply, Fault> {
        self.sequence = self.sequence.wrapping_add(1);
        let head = Output::message(CALL, question.method, self.sequence);
        self.stream.write_all(&[head.bytes(), question.arguments].concat()).await?;
        self.stream.flush().await?;
        let mut input = Input::new(&mut self.stream, REPLY_MAX_BYTES);
        Reply::read(&mut input, question.method, self.sequence, question.shape).await
    }

    /// Says in whose name questions are asked from now on.
    async fn introduce(&mut self, user: &str, groups: &[String]) -> Result<(), Fault> {
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut arguments = Output::default();
        arguments.field(STRING, 1).text(user).field(LIST, 2).texts(&groups).stop();
        let question = Question { method: "set_ugi", arguments: arguments.bytes(), shape: Shape::Names };
        match self.ask(question).await? {
            Reply::Names(_) => Ok(()),
            Reply::Thrown(_, why) | Reply::Failed(_, why) => Err(Fault::Malformed(format!(
                "it does not take the user {}: {}",
                user.escape_debug(),
                passed_on(&why)
            ))),
            Reply::Tables(_) => Err(Fault::Malformed("it answers another question".into())),
        }
    }
}

fn late(what: &str, patience: Duration) -> Fault {
    Fault::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{what} in {patience:?}")))
}
