//! One connection to Redis that all commands share, whatever stands behind the address.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value,
};
use secrecy::ExposeSecret;

use super::trouble::Trouble;
use crate::config::settings::{RedisMode, RedisSettings};

/// For name, TCP, TLS and greeting.
const CONNECT: Duration = Duration::from_millis(500);
/// An answer that takes longer does not come any more.
const RESPONSE: Duration = Duration::from_millis(500);

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server.
    Single(MultiplexedConnection),
    /// To a Redis Cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects.
    pub(super) async fn connect(settings: &RedisSettings) -> Result<Link, Trouble> {
        match tokio::time::timeout(2 * CONNECT, try_connect(settings)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => {
                // It may name the server's address, which is no secret; passwords are never in it.
                tracing::debug!(%error, "Redis cannot be reached");
                Err(Trouble::of(&error))
            }
            Err(_) => Err(Trouble::Late),
        }
    }

    /// How many parts of the key space a probe has to visit to have met every server.
    pub(super) fn probes(&self) -> usize {
        match self {
            Link::Single(_) => 0,
            Link::Cluster(_) => 16,
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Link::Single(link) => link.req_packed_command(cmd),
            Link::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Link::Single(link) => link.req_packed_commands(pipeline, offset, count),
            Link::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Link::Single(link) => link.get_db(),
            Link::Cluster(link) => link.get_db(),
        }
    }
}

async fn try_connect(settings: &RedisSettings) -> RedisResult<Link> {
    let infos = settings.urls.iter().map(|url| url.expose_secret().into_connection_info());
    let infos = infos.collect::<RedisResult<Vec<ConnectionInfo>>>()?;
    let password = settings.password.as_ref().map(ExposeSecret::expose_secret);
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(RESPONSE));
    match settings.mode {
        RedisMode::Single => {
            let Some(info) = infos.into_iter().next() else {
                return Err((redis::ErrorKind::InvalidClientConfig, "no URL").into());
            };
            let mut login = info.redis_settings().clone();
            if let Some(username) = &settings.username {
                login = login.set_username(username);
            }
            if let Some(password) = password {
                login = login.set_password(password);
            }
            let client = Client::open(info.set_redis_settings(login))?;
            Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
        }
        RedisMode::Cluster => {
            let mut builder = ClusterClientBuilder::new(infos)
                .connection_timeout(CONNECT)
                .response_timeout(RESPONSE)
                .retries(1)
                .min_retry_wait(5)
                .max_retry_wait(50);
            if let Some(username) = &settings.username {
                builder = builder.username(username);
            }
            if let Some(password) = password {
                builder = builder.password(password);
            }
            Ok(Link::Cluster(builder.build()?.get_async_connection().await?))
        }
        RedisMode::Sentinel => by_sentinels(settings, &infos, &config).await.map(Link::Single),
    }
}

/// Asks all sentinels at once, and takes the first way to the primary that there is. The library asks one after the other: a
/// host that is gone without a word would take all the time that there is, each time.
async fn by_sentinels(
    settings: &RedisSettings,
    infos: &[ConnectionInfo],
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let login = infos.first().map(ConnectionInfo::redis_settings);
    let mut asked: FuturesUnordered<_> =
        infos.iter().map(|info| by_sentinel(settings, info.addr().clone(), login, config)).collect();
    let mut said: Option<RedisError> = None;
    while let Some(found) = asked.next().await {
        match found {
            Ok(link) => return Ok(link),
            // One that answers knows more than one that does not.
            Err(error) if said.is_none() || !error.is_io_error() => said = Some(error),
            Err(_) => {}
        }
    }
    Err(said.unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "no URL").into()))
}

/// `login` is for the sentinel.
async fn by_sentinel(
    settings: &RedisSettings,
    address: ConnectionAddr,
    login: Option<&RedisConnectionInfo>,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let mut builder = SentinelClientBuilder::new([address], &settings.service, SentinelServerType::Master)?;
    if let Some(login) = login {
        if let Some(username) = login.username() {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder = builder.set_client_to_redis_db(login.db());
    }
    if let Some(username) = &settings.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &settings.password {
        builder = builder.set_client_to_redis_password(password.expose_secret());
    }
    builder.build()?.get_async_connection_with_config(config).await
}
