// What the topic's identity may do on the app's storage: put events into the queue, and dead letters beside it.
param storageName string
param topicPrincipalId string

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

// Storage Queue Data Message Sender; Storage Blob Data Contributor (on the account: a container is refused by some, facts/azure.md 9.3).
var roleIds = ['c6a89b2d-59bc-44d0-9896-0f6e12d7b80a', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe']

resource roles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for roleId in roleIds: {
  name: guid(storage.id, topicPrincipalId, roleId)
  scope: storage
  properties: {
    principalId: topicPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}]

output storageId string = storage.id
