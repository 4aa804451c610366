// An example: a function that counts its invocations in a SQLite file in /tmp.
//   scripts/package-layer --arch arm64 deploy/cdk/dist                  or another place: LAYER_ZIP=...
//   cd deploy/cdk && npm install aws-cdk-lib constructs && node app.js  writes cdk.out (CDK_OUTDIR)
'use strict';

const path = require('node:path');
const { App, RemovalPolicy, Size, Stack, Duration, aws_lambda: lambda, aws_s3: s3 } = require('aws-cdk-lib');
const { Icecache } = require('./icecache');

const code = `
import sqlite3

def handler(event, context):
    with sqlite3.connect("/tmp/counter.db") as db:
        db.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER)")
        db.execute("INSERT INTO counter SELECT count(*) + 1 FROM counter")
        return {"count": db.execute("SELECT count(*) FROM counter").fetchone()[0]}
`;

const app = new App();
const stack = new Stack(app, 'IcecacheExample');
const bucket = new s3.Bucket(stack, 'State', {
  encryption: s3.BucketEncryption.S3_MANAGED,
  blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
  removalPolicy: RemovalPolicy.RETAIN,
  // What a save that was given up may leave.
  lifecycleRules: [{ id: 'uploads-that-were-broken-off', abortIncompleteMultipartUploadAfter: Duration.days(1) }],
});
const icecache = new Icecache(stack, 'Icecache', {
  bucket,
  prefix: 'functions',
  layerZip: process.env.LAYER_ZIP ?? path.join(__dirname, 'dist/icecache-layer-arm64.zip'),
});
icecache.keep(
  new lambda.Function(stack, 'Counter', {
    runtime: lambda.Runtime.PYTHON_3_13,
    architecture: lambda.Architecture.ARM_64,
    handler: 'index.handler',
    code: lambda.Code.fromInline(code),
    timeout: Duration.seconds(30),
    memorySize: 512,
    ephemeralStorageSize: Size.gibibytes(1),
    // Two instances do not count with one SQLite file.
    reservedConcurrentExecutions: 1,
  }),
);
app.synth();
