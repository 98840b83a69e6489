"""Real brokers for the tests: private instances on free loopback ports, to be killed, frozen and restarted.

They die with the process that started them, however it ends, and leave no files behind.
"""

from .broker import Broker
from .certificates import Certificates, certificates
from .kafka_server import Kafka
from .mosquitto import Mosquitto
from .nats_server import Nats
from .postgres_server import Postgres
from .proxy import Proxy
from .rabbitmq_server import RabbitMQ
from .redis_cluster import RedisCluster
from .redis_server import Redis, Sentinel, Valkey
from .web_server import WebServer

__all__ = [
    "Broker",
    "Certificates",
    "Kafka",
    "Mosquitto",
    "Nats",
    "Postgres",
    "Proxy",
    "RabbitMQ",
    "Redis",
    "RedisCluster",
    "Sentinel",
    "Valkey",
    "WebServer",
    "certificates",
]
