//! [`CatalogAddress`]: what a person types to name a catalog.
use super::hadoop::{HadoopCatalog, SingleTable};
use super::{Aws, Catalog, CatalogError, NoAws, Options};
use crate::location::{Location, LocationError};
use crate::objects::Objects;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The port of a metastore of which none is named.
const METASTORE_PORT: u16 = 9083;

/// A catalog and what it is called here: `NAME=KIND:…`.
#[derive(Clone, PartialEq, Eq)]
pub struct CatalogAddress {
    /// What it is called here; a folder of the mount where there are several.
    pub name: String,
    /// What it is.
    pub kind: CatalogKind,
}

/// The kinds of catalogs.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogKind {
    /// `rest:http://host/path` or `rest:https://…`.
    Rest(String),
    /// `sql:sqlite:///abs/path.db`.
    Sqlite(PathBuf),
    /// `sql:postgres://user@host/database`; a password may be in it.
    Postgres(String),
    /// `glue:`, or `glue:region`.
    Glue(Option<String>),
    /// `hive:thrift://host:port`, several of them separated by commas: `host:port` of each.
    Hive(Vec<String>),
    /// `hadoop:s3://bucket/warehouse`, `hadoop:file:///warehouse`.
    Hadoop(Location),
    /// `s3://bucket/table` or `s3://bucket/….metadata.json`: one table, without a catalog, under this name.
    Table(Location),
}

/// Why a text is not a [`CatalogAddress`]. The text is withheld: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `NAME=` before the rest.
    #[error(
        "a catalog is NAME=KIND:…, as in prod=rest:https://catalog.example.org or lake=hadoop:s3://bucket/warehouse"
    )]
    NoName,
    /// Not one of the kinds.
    #[error(
        "kind of catalog '{name}' is none of rest:http(s)://…, sql:sqlite:///PATH, sql:postgres://…, glue:[REGION], \
         hive:thrift://HOST:PORT[,thrift://…], hadoop:s3://BUCKET/PATH, hadoop:file:///PATH, s3://BUCKET/TABLE"
    )]
    Kind {
        /// The name of the catalog.
        name: String,
    },
    /// The location cannot be used.
    #[error("catalog '{name}': {why}")]
    Location {
        /// The name of the catalog.
        name: String,
        /// Why not.
        why: LocationError,
    },
    /// A user or password in the URI of a REST catalog or a metastore.
    #[error(
        "catalog '{name}': credentials do not belong into the URI; set the option 'credential' or 'token' (REST) or \
         'ugi' (Hive)"
    )]
    Credentials {
        /// The name of the catalog.
        name: String,
    },
}

impl FromStr for CatalogAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (name, rest) = text.split_once('=').ok_or(AddressError::NoName)?;
        if name.is_empty() || name.contains([':', '/']) {
            return Err(AddressError::NoName);
        }
        let name = name.to_owned();
        let place = |rest: &str| {
            rest.parse::<Location>().map_err(|why| AddressError::Location { name: name.clone(), why })
        };
        let kind = if let Some(uri) = rest.strip_prefix("rest:") {
            let host = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
            let Some(host) = host.filter(|host| !host.is_empty()) else {
                return Err(AddressError::Kind { name });
            };
            if host.split('/').next().is_some_and(|authority| authority.contains('@')) {
                return Err(AddressError::Credentials { name });
            }
            CatalogKind::Rest(uri.trim_end_matches('/').to_owned())
        } else if let Some(path) = rest.strip_prefix("sql:sqlite://") {
            if !path.starts_with('/') {
                return Err(AddressError::Kind { name });
            }
            CatalogKind::Sqlite(path.into())
        } else if let Some(uri) = rest
            .strip_prefix("sql:")
            .filter(|uri| uri.starts_with("postgres://") || uri.starts_with("postgresql://"))
        {
            CatalogKind::Postgres(uri.to_owned())
        } else if let Some(region) = rest.strip_prefix("glue:") {
            let is_region =
                region.contains('-') && region.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            if !is_region && !region.is_empty() {
                return Err(AddressError::Kind { name });
            }
            CatalogKind::Glue(Some(region.to_owned()).filter(|region| !region.is_empty()))
        } else if let Some(uris) = rest.strip_prefix("hive:") {
            CatalogKind::Hive(uris.split(',').map(|uri| metastore(uri, &name)).collect::<Result<_, _>>()?)
        } else if let Some(rest) = rest.strip_prefix("hadoop:") {
            CatalogKind::Hadoop(place(rest)?)
        } else if rest.contains("://") || rest.starts_with('/') {
            match rest.split(':').next() {
                Some("rest" | "sql" | "glue" | "hive" | "http" | "https") => {
                    return Err(AddressError::Kind { name });
                }
                _ => CatalogKind::Table(place(rest)?),
            }
        } else {
            return Err(AddressError::Kind { name });
        };
        Ok(Self { name, kind })
    }
}

/// The `host:port` of a metastore's URI.
fn metastore(uri: &str, name: &str) -> Result<String, AddressError> {
    let wrong = || AddressError::Kind { name: name.to_owned() };
    let server = uri.trim().strip_prefix("thrift://").ok_or_else(wrong)?.trim_end_matches('/');
    if server.contains('@') {
        return Err(AddressError::Credentials { name: name.to_owned() });
    }
    // Of an address of version 6 the colons are in brackets.
    let (host, port) = match server.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse::<u16>().map_err(|_| wrong())?),
        None => (server, METASTORE_PORT),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || !(is_v6 || host.chars().all(is_plain)) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

impl CatalogAddress {
    /// Connects, as far as this kind connects; whether anybody is there shows at the first question.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] for options that make no sense, and for kinds this build was made without.
    pub fn open(
        &self,
        options: &Options,
        objects: Arc<dyn Objects>,
    ) -> Result<Arc<dyn Catalog>, CatalogError> {
        self.open_with(options, objects, Arc::new(NoAws))
    }

    /// The same with what is known of AWS.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(
        &self,
        options: &Options,
        objects: Arc<dyn Objects>,
        aws: Arc<dyn Aws>,
    ) -> Result<Arc<dyn Catalog>, CatalogError> {
        match &self.kind {
            CatalogKind::Hadoop(warehouse) => Ok(Arc::new(HadoopCatalog::new(objects, warehouse.clone()))),
            CatalogKind::Table(location) => {
                Ok(Arc::new(SingleTable::new(objects, &self.name, location.clone())))
            }
            #[cfg(feature = "sqlite")]
            CatalogKind::Sqlite(path) => Ok(Arc::new(super::sql::SqlCatalog::new(
                super::sql::Sqlite::new(path.clone()),
                &self.name,
                options,
            ))),
            #[cfg(feature = "postgres")]
            CatalogKind::Postgres(uri) => Ok(Arc::new(super::sql::SqlCatalog::new(
                super::sql::Postgres::new(uri)?,
                &self.name,
                options,
            ))),
            #[cfg(feature = "rest")]
            CatalogKind::Rest(uri) => Ok(Arc::new(super::rest::RestCatalog::new(uri, options)?)),
            #[cfg(feature = "glue")]
            CatalogKind::Glue(region) => {
                let glue = super::glue::Glue::new(region.as_deref(), options, aws)?;
                Ok(Arc::new(super::metastore::MetastoreCatalog::new(glue)))
            }
            #[cfg(feature = "hive")]
            CatalogKind::Hive(servers) => {
                let hive = super::hive::Hive::new(servers, options)?;
                Ok(Arc::new(super::metastore::MetastoreCatalog::new(hive)))
            }
            #[allow(unreachable_patterns, reason = "with all features there is no other kind")]
            kind => {
                // Nobody needs them then.
                let _ = (options, aws);
                Err(CatalogError::Refused {
                    why: format!("catalogs of kind {} are not in this build", kind.name()),
                })
            }
        }
    }
}

impl CatalogKind {
    /// The kind in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rest(_) => "rest",
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            Self::Glue(_) => "glue",
            Self::Hive(_) => "hive",
            Self::Hadoop(_) => "hadoop",
            Self::Table(_) => "table",
        }
    }
}

impl fmt::Display for CatalogAddress {
    /// As typed, without what may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.name)?;
        match &self.kind {
            CatalogKind::Rest(uri) => write!(f, "rest:{uri}"),
            CatalogKind::Sqlite(path) => write!(f, "sql:sqlite://{}", path.display()),
            CatalogKind::Postgres(uri) => {
                let rest = uri.split_once("//").map_or("", |x| x.1);
                let place = match (rest.rfind('@'), rest.find('?')) {
                    // A password may have a question mark, and one among the parameters an at sign: nobody can tell.
                    (Some(at), Some(question)) if question < at => "…",
                    (Some(at), _) => &rest[at + 1..],
                    (None, _) => rest,
                };
                write!(f, "sql:postgres://{}", place.split('?').next().unwrap_or_default())
            }
            CatalogKind::Glue(region) => write!(f, "glue:{}", region.as_deref().unwrap_or_default()),
            CatalogKind::Hive(servers) => {
                let uris: Vec<String> = servers.iter().map(|server| format!("thrift://{server}")).collect();
                write!(f, "hive:{}", uris.join(","))
            }
            CatalogKind::Hadoop(location) => write!(f, "hadoop:{location}"),
            CatalogKind::Table(location) => write!(f, "{location}"),
        }
    }
}

impl fmt::Debug for CatalogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for CatalogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Result<CatalogKind, AddressError> {
        text.parse::<CatalogAddress>().map(|address| address.kind)
    }

    #[test]
    fn every_kind_is_understood() {
        assert_eq!(kind("a=rest:http://h:8181/x/"), Ok(CatalogKind::Rest("http://h:8181/x".into())));
        assert_eq!(kind("a=sql:sqlite:///x/y.db"), Ok(CatalogKind::Sqlite("/x/y.db".into())));
        assert_eq!(kind("a=sql:postgres://u:p@h/d"), Ok(CatalogKind::Postgres("postgres://u:p@h/d".into())));
        assert_eq!(kind("a=hadoop:s3a://b/wh"), Ok(CatalogKind::Hadoop("s3://b/wh".parse().unwrap())));
        assert_eq!(kind("a=hadoop:file:///wh"), Ok(CatalogKind::Hadoop("/wh".parse().unwrap())));
        assert_eq!(kind("a=glue:"), Ok(CatalogKind::Glue(None)));
        assert_eq!(kind("a=glue:eu-west-1"), Ok(CatalogKind::Glue(Some("eu-west-1".into()))));
        assert_eq!(kind("a=hive:thrift://h:1/"), Ok(CatalogKind::Hive(vec!["h:1".into()])));
        let several = CatalogKind::Hive(vec!["a.b:9083".into(), "[::1]:7".into(), "[::2]:9083".into()]);
        assert_eq!(kind("a=hive:thrift://a.b,thrift://[::1]:7, thrift://[::2]"), Ok(several));
        assert_eq!(kind("t=s3://b/wh/t"), Ok(CatalogKind::Table("s3://b/wh/t".parse().unwrap())));
        assert_eq!(kind("t=/wh/t"), Ok(CatalogKind::Table("/wh/t".parse().unwrap())));
    }

    #[test]
    fn what_is_none_is_refused_with_advice() {
        for text in ["", "a", "rest:http://h", "=rest:http://h", "a/b=rest:http://h"] {
            assert_eq!(kind(text), Err(AddressError::NoName), "{text}");
        }
        for text in [
            "a=",
            "a=rest:h",
            "a=rest:http://",
            "a=sql:sqlite://x.db",
            "a=sql:mysql://h/d",
            "a=glue:Region",
            "a=glue:eu-west-1/x",
            "a=glue",
            "a=hive:h:9083",
            "a=hive:thrift://",
            "a=hive:thrift://h:x",
            "a=hive:thrift://a:1,",
            "a=hive:http://h:1/metastore",
            "a=https://h/x",
        ] {
            assert!(matches!(kind(text), Err(AddressError::Kind { .. })), "{text}");
        }
        assert!(matches!(kind("a=rest:https://u:p@h/x"), Err(AddressError::Credentials { .. })));
        assert!(matches!(kind("a=hive:thrift://u:p@h:1"), Err(AddressError::Credentials { .. })));
        assert!(matches!(kind("a=hadoop:warehouse"), Err(AddressError::Location { .. })));
    }

    #[test]
    fn passwords_are_not_shown() {
        let address: CatalogAddress = "a=sql:postgres://u:p%40ss@h/d?password=x".parse().unwrap();
        assert_eq!(address.to_string(), "a=sql:postgres://h/d");
        assert_eq!(format!("{address:?}"), "a=sql:postgres://h/d");
        assert_eq!(format!("{:?}", address.kind), "postgres");
        for text in ["a=glue:", "a=glue:eu-west-1", "a=hive:thrift://a:1,thrift://b:2"] {
            assert_eq!(text.parse::<CatalogAddress>().unwrap().to_string(), text);
        }
        let plain: CatalogAddress = "a=sql:postgres://h/d".parse().unwrap();
        assert_eq!(plain.to_string(), "a=sql:postgres://h/d");
    }
}
