// A construct for the AWS CDK: the layer, and what a function needs so that its directory is kept.
'use strict';

const { Annotations, aws_iam: iam, aws_lambda: lambda } = require('aws-cdk-lib');
const { Construct } = require('constructs');

// Names with one slash between them. The program leaves other slashes out, so it would have no rights; and a wildcard would
// give more.
const PREFIX = /^[A-Za-z0-9._=-]+(\/[A-Za-z0-9._=-]+)*$/;

class Icecache extends Construct {
  /**
   * @param {Construct} scope
   * @param {string} id
   * @param {object} props
   * @param {import('aws-cdk-lib').aws_s3.IBucket} props.bucket  has the states; give it a rule that aborts incomplete
   *     multipart uploads, of which a save that is given up may leave one
   * @param {string} props.prefix  where in the bucket; functions get rights for nothing else
   * @param {string} props.layerZip  the layer as scripts/package-layer writes it
   * @param {import('aws-cdk-lib').aws_lambda.Architecture} [props.architecture]  what the zip is for (arm64)
   * @param {string} [props.flush]  before-response, after-response, a number of invocations, or a time
   * @param {boolean} [props.mayDelete]  functions may delete layers that no kept version needs, and for that list
   *     what is at the prefix
   */
  constructor(scope, id, props) {
    super(scope, id);
    const { bucket, prefix, layerZip, architecture = lambda.Architecture.ARM_64 } = props;
    if (!PREFIX.test(prefix ?? '')) {
      throw new Error(`the prefix must be names of letters, digits and . _ = - with one slash between them: ${prefix}`);
    }
    this.bucket = bucket;
    this.prefix = prefix;
    this.flush = props.flush ?? 'before-response';
    this.mayDelete = props.mayDelete ?? false;
    this.architecture = architecture;
    this.layer = new lambda.LayerVersion(this, 'Layer', {
      description: 'Keeps a directory of a function in S3',
      code: lambda.Code.fromAsset(layerZip),
      compatibleArchitectures: [architecture],
      license: 'Apache-2.0',
    });
  }

  /** Gives a function the layer, the variables, and the rights for its prefix. */
  keep(fn) {
    if (fn.architecture !== undefined && fn.architecture.name !== this.architecture.name) {
      Annotations.of(fn).addError(`the layer is for ${this.architecture.name}, the function for ${fn.architecture.name}`);
    }
    fn.addLayers(this.layer);
    fn.addEnvironment('AWS_LAMBDA_EXEC_WRAPPER', '/opt/icecache');
    fn.addEnvironment('S3_BUCKET', this.bucket.bucketName);
    fn.addEnvironment('S3_PREFIX', this.prefix);
    fn.addEnvironment('ICECACHE_FLUSH', this.flush);
    const actions = ['s3:GetObject', 's3:PutObject', 's3:AbortMultipartUpload'];
    if (this.mayDelete) {
      actions.push('s3:DeleteObject');
      // Before anything is deleted every name is asked whether it needs that.
      const list = { actions: ['s3:ListBucket'], resources: [this.bucket.bucketArn] };
      const conditions = { StringLike: { 's3:prefix': [`${this.prefix}/*`] } };
      fn.addToRolePolicy(new iam.PolicyStatement({ ...list, conditions }));
    } else {
      fn.addEnvironment('ICECACHE_DELETE_AFTER', 'never');
    }
    // Not grantReadWrite, which gives more, for the whole bucket.
    fn.addToRolePolicy(new iam.PolicyStatement({ actions, resources: [this.bucket.arnForObjects(`${this.prefix}/*`)] }));
    if (this.bucket.encryptionKey) {
      this.bucket.encryptionKey.grantEncryptDecrypt(fn);
    }
    return fn;
  }
}

module.exports = { Icecache };
