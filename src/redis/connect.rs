//! [`Connector`]: opens connections to servers, and finds out what those can do.
use super::error::RedisError;
use super::options::{Address, RedisOptions};
use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    ServerErrorKind, TlsCertificates, Value, cmd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;

/// Commands that wait for a place in the buffer of a connection; there are never more, see `Node`.
const PIPELINE_BUFFER: usize = 256;

/// How a server lets values expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// `SET … PX`.
    Milliseconds,
    /// `SET … EX`.
    Seconds,
    /// `SET`, then `EXPIRE`.
    Apart,
    /// Not at all.
    Never,
}

/// What a server can do, as it was found when the connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Capabilities {
    /// How values expire.
    pub expiry: Expiry,
    /// Whether it passes events on (`PUBLISH`).
    pub events: bool,
}

/// Two connections to a server. Blocks that are written do not hold up those that are read.
pub struct Link {
    pub reads: MultiplexedConnection,
    pub writes: MultiplexedConnection,
    pub can: Capabilities,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("can", &self.can).finish_non_exhaustive()
    }
}

/// Opens connections.
#[derive(Debug)]
pub struct Connector {
    options: RedisOptions,
    ca: Option<Vec<u8>>,
}

impl Connector {
    /// Reads the file of certificates, if one is named.
    pub async fn new(options: RedisOptions) -> Result<Self, RedisError> {
        let ca = match &options.ca {
            None => None,
            Some(path) => {
                let failed = |why: String| RedisError::File { option: "ca", path: path.clone(), why };
                let pem = tokio::fs::read(path).await.map_err(|e| failed(e.to_string()))?;
                // What is wrong in it is said now, not at the first connection in the background.
                let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                if certificates.map_err(|e| failed(e.to_string()))?.is_empty() {
                    return Err(failed("there is no certificate in it".into()));
                }
                Some(pem)
            }
        };
        if options.tls {
            // Without one TLS has to guess, and panics when two are compiled in. An application may have chosen
            // another before; that is as good.
            let _chosen_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let connector = Self { options, ca };
        for address in &connector.options.servers {
            connector.client(address)?;
        }
        Ok(connector)
    }

    /// What it was told.
    pub fn options(&self) -> &RedisOptions {
        &self.options
    }

    /// What the library says about a server.
    pub fn error(&self, address: &Address, error: &::redis::RedisError) -> RedisError {
        RedisError::new(address, error, |text| self.options.scrub(text))
    }

    /// Nothing of this goes out to the server yet.
    fn client(&self, address: &Address) -> Result<Client, RedisError> {
        let options = &self.options;
        // The subset of the protocol that all servers speak: no HELLO, no CLIENT.
        let mut settings =
            RedisConnectionInfo::default().set_skip_set_lib_name().set_db(options.database.into());
        if let Some(user) = &options.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &options.password {
            settings = settings.set_password(password.reveal());
        }
        let (host, port) = (address.host.clone(), address.port);
        let place = if options.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let client = place.into_connection_info().and_then(|info| {
            let info = info.set_redis_settings(settings);
            match &self.ca {
                Some(ca) => Client::build_with_tls(
                    info,
                    TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) },
                ),
                None => Client::open(info),
            }
        });
        client.map_err(|e| RedisError::Option {
            option: if self.ca.is_some() { "ca" } else { "url" }.into(),
            why: options.scrub(&e.to_string()),
        })
    }

    /// Whatever takes longer than a connection may take is given up.
    async fn in_time<T>(
        &self,
        address: &Address,
        work: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let after = self.options.connect_deadline;
        let late = |_| RedisError::TimedOut { address: address.clone(), after };
        tokio::time::timeout(after, work).await.map_err(late)?
    }

    async fn plain(&self, address: &Address) -> Result<MultiplexedConnection, RedisError> {
        // The deadlines are ours: one place says how long anything takes.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let client = self.client(address)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        connection.map_err(|e| self.error(address, &e))
    }

    /// Two connections, and what the server can do.
    pub async fn link(&self, address: &Address) -> Result<Link, RedisError> {
        self.in_time(address, async {
            let reads = self.plain(address).await?;
            let mut writes = self.plain(address).await?;
            let can = self.probe(address, &mut writes).await?;
            Ok(Link { reads, writes, can })
        })
        .await
    }

    /// What a node says about the slots of its cluster; `None` if it is no node of a cluster.
    pub async fn cluster_slots(&self, address: &Address) -> Result<Option<Value>, RedisError> {
        self.in_time(address, async {
            let mut connection = self.plain(address).await?;
            match cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await {
                Ok(slots) => Ok(Some(slots)),
                Err(e) if lacks(&e) => Ok(None),
                Err(e) => Err(self.error(address, &e)),
            }
        })
        .await
    }

    /// A connection that receives what is published on a channel.
    pub async fn subscribe(&self, address: &Address, channel: &str) -> Result<PubSub, RedisError> {
        self.in_time(address, async {
            let opened = self.client(address)?.get_async_pubsub().await;
            let mut pubsub = opened.map_err(|e| self.error(address, &e))?;
            match pubsub.subscribe(channel).await {
                Ok(()) => Ok(pubsub),
                Err(e) if lacks(&e) => {
                    Err(RedisError::Unsupported { address: address.clone(), what: "SUBSCRIBE" })
                }
                Err(e) => Err(self.error(address, &e)),
            }
        })
        .await
    }

    /// Tries the commands that are needed, the best form of each first.
    async fn probe(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Capabilities, RedisError> {
        let key = format!("{}:probe", self.options.namespace);
        let unsupported = |what| RedisError::Unsupported { address: address.clone(), what };
        let set = || cmd("SET").arg(&key).arg("1").to_owned();
        let forms = [
            (Expiry::Milliseconds, set().arg("PX").arg(10_000).to_owned()),
            (Expiry::Seconds, set().arg("EX").arg(10).to_owned()),
            (Expiry::Never, set()),
        ];
        let (mut expiry, mut written) = (None, false);
        for (form, command) in forms {
            match command.query_async::<Value>(connection).await {
                Ok(_) => (expiry, written) = (Some(form), true),
                Err(e) if lacks(&e) => continue,
                // It could, but not now, or not this key. What it can is then what Redis can.
                Err(e) if cannot_write_now(&e) => expiry = Some(Expiry::Milliseconds),
                Err(e) => return Err(self.error(address, &e)),
            }
            break;
        }
        let mut expiry = expiry.ok_or_else(|| unsupported("SET"))?;
        if written && expiry == Expiry::Never {
            match cmd("EXPIRE").arg(&key).arg(10).query_async::<Value>(connection).await {
                Ok(_) => expiry = Expiry::Apart,
                Err(e) if lacks(&e) => {}
                Err(e) => return Err(self.error(address, &e)),
            }
        }
        if written {
            match cmd("GET").arg(&key).query_async::<Option<Vec<u8>>>(connection).await {
                Ok(_) => {}
                Err(e) if lacks(&e) => return Err(unsupported("GET")),
                Err(e) => return Err(self.error(address, &e)),
            }
        }
        let events = match cmd("PUBLISH").arg(&key).arg("").query_async::<Value>(connection).await {
            Ok(_) => true,
            Err(e) if lacks(&e) => false,
            Err(e) => return Err(self.error(address, &e)),
        };
        Ok(Capabilities { expiry, events })
    }
}

/// The server does not know the command or the form of it, or does not permit it to us.
pub fn lacks(error: &::redis::RedisError) -> bool {
    use ErrorKind::Server;
    match error.kind() {
        Server(ServerErrorKind::NoPerm) => true,
        // What it says before it closes the connection is about no command.
        Server(ServerErrorKind::ResponseError) => {
            !error.detail().is_some_and(|detail| detail.contains("max number of clients"))
        }
        _ => false,
    }
}

/// The server is full, a replica, cannot save, or has this key elsewhere.
fn cannot_write_now(error: &::redis::RedisError) -> bool {
    use ErrorKind::Server;
    matches!(error.kind(), Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ReadOnly))
        || matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}
