// The state: Azure Managed Redis, Entra ID only. Nothing may be evicted, and what was acknowledged is on disk within a second.
param token string
param location string
param tags object
param skuName string
param principalId string
param operatorPrincipalId string

resource redis 'Microsoft.Cache/redisEnterprise@2025-07-01' = {
  name: 'redis-${token}'
  location: location
  tags: tags
  sku: { name: skuName }
  properties: {
    minimumTlsVersion: '1.2'
    highAvailability: 'Enabled'
    publicNetworkAccess: 'Enabled'
  }

  resource database 'databases' = {
    name: 'default'
    properties: {
      clientProtocol: 'Encrypted'
      port: 10000
      clusteringPolicy: 'OSSCluster'
      evictionPolicy: 'NoEviction'
      accessKeysAuthentication: 'Disabled'
      persistence: {
        aofEnabled: true
        aofFrequency: '1s'
      }
    }

    resource access 'accessPolicyAssignments' = {
      name: 'fedplane'
      properties: {
        accessPolicyName: 'default'
        user: { objectId: principalId }
      }
    }

    resource operatorAccess 'accessPolicyAssignments' = if (!empty(operatorPrincipalId)) {
      name: 'operator'
      dependsOn: [access] // one change of a database at a time
      properties: {
        accessPolicyName: 'default'
        user: { objectId: operatorPrincipalId }
      }
    }
  }
}

output hostName string = redis.properties.hostName
